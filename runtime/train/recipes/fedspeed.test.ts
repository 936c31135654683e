// FedSpeed on a small model with experts: worlds of unlike data cost it nothing, where FedAvg at the same pace ends with twice what is left
// to learn; on like data both end alike.
import assert from "node:assert/strict";
import { join } from "node:path";
import { folder, modelOf, testOfSeeds } from "../../../test/kit/training/recipe-runs.ts";
import { runSettings, writeCorpus } from "../../../test/kit/training/training.ts";
import { optimizerSettings } from "../optimizers/index.ts";
import { trainWorlds } from "../worlds/together.ts";
import { parseRecipes } from "./index.ts";

const small = { num_hidden_layers: 1, initializer_range: 0.1, intermediate_size: 16, num_local_experts: 4, num_experts_per_tok: 2 };
const model = modelOf("mixtral", small);

const contexts = 4;
/** Of a context that a world has often and of one that it has rarely: how often its own answer and the other world's follow. */
const [often, rarely] = [
  [18, 2],
  [3, 1],
] as const;
const each = 24;

/** Sequences of a start, a context and an answer, so that nothing but the context tells of the world. */
function textOf(world: number): number[] {
  const text: number[] = [];
  for (let context = 0; context < contexts; context++)
    for (const [other, count] of (Math.floor(context / 2) === world ? often : rarely).entries())
      for (let i = 0; i < count; i++) text.push(0, 1 + context, 1 + contexts + ((context + 2 * ((world + other) % 2)) % contexts));
  return text;
}

const unlike = [0, 1].map((world) => join(folder, `data-${world}`));
for (const [world, path] of unlike.entries()) await writeCorpus(path, [...textOf(world), 0]);
const both = join(folder, "both");
await writeCorpus(both, [...textOf(0), ...textOf(1), 0]);

/** Entropies of the contexts and of their answers, whose counts are 19 and 5, by token of both data sets. */
const least = (Math.log(contexts) - (19 / each) * Math.log(19 / each) - (5 / each) * Math.log(5 / each)) / 3;

/** What is left to learn of both data sets after 30 meetings; each step has all of a world's data, so that there is no noise. */
async function left(local: string, rate: number, like: boolean, seed: number): Promise<number> {
  const steps = 600;
  const settings = {
    ...runSettings,
    model,
    seed,
    data: both,
    validation: both,
    out: join(folder, `run ${local} ${like} ${seed}`),
    sequences: (like ? 4 : 2) * each,
    sequenceLength: 3,
    microBatches: 1,
    schedule: { name: "constant", rate, warmup: 0, steps, floor: 0 },
    optimizer: optimizerSettings("sgd", { beta1: 0 }),
    clip: 1000,
    checkpoint: { everySteps: steps, keep: 1 },
    recipes: parseRecipes({ local }),
  } as const;
  const quiet = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };
  const { validationLoss } = await trainWorlds(settings, like ? [both, both] : unlike, () => quiet);
  return (validationLoss ?? Number.NaN) - least;
}

/** FedSpeed moves by 1 / lambda of a gradient from meeting to meeting, FedAvg by its steps' rates. */
const lambda = 3;

testOfSeeds("on unlike data FedSpeed has less left to learn than FedAvg at its pace, on like data as much", async (seed, t) => {
  const [speed, average] = [`fedspeed:20:${lambda}:0`, "fedavg:20"];
  const pace = 1 / (20 * lambda);
  const apart = [await left(speed, 0.1, false, seed), await left(average, pace, false, seed)] as const;
  const alike = [await left(speed, 0.1, true, seed), await left(average, pace, true, seed)] as const;
  const reported = `unlike ${apart.map((loss) => loss.toFixed(4))}; like ${alike.map((loss) => loss.toFixed(4))}`;
  t.diagnostic(reported);
  assert.ok(apart[0] <= 0.7 * apart[1], reported);
  assert.ok(apart[0] <= 1.2 * alike[0], reported);
  assert.ok(alike[0] >= 0.85 * alike[1] && alike[0] <= 1.15 * alike[1], reported);
});
