// MomentumSMoE: over six layers a momentum has a lower loss after as many steps than the same layers without, and than those with experts
// of twice the weight, which momentum gives them too.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { train } from "../loop/run.ts";
import { parseRecipes } from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-momentum-"));
after(() => rmSync(folder, { recursive: true }));

const data = join(folder, "data");
await writeCorpus(data, chainedTokens(8193, 7));

/** The mean loss of the first and the last ten of some steps. */
async function lossesOf(momentum: number, momentum_step: number, seed: number): Promise<readonly [number, number]> {
  const name = `${momentum} ${momentum_step} ${seed}`;
  const small = { num_hidden_layers: 6, initializer_range: 0.1, intermediate_size: 16 };
  const steps = 60;
  const losses: number[] = [];
  const settings = {
    ...runSettings,
    model: writeModel(join(folder, name), "momentum-smoe", { ...small, momentum, momentum_step }),
    seed,
    data,
    out: join(folder, `run ${name}`),
    sequences: 16,
    sequenceLength: 16,
    microBatches: 1,
    schedule: { name: "cosine", rate: 3e-3, warmup: 5, steps, floor: 0.1 },
    checkpoint: { everySteps: steps, keep: 1 },
    recipes: parseRecipes({ balance: "switch:0.01" }),
  } as const;
  const quiet = { now: () => 0, stopped: () => false, onStart() {}, onValidation() {} };
  await train(settings, { ...quiet, onStep: ({ loss }) => void losses.push(loss) });
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [mean(losses.slice(0, 10)), mean(losses.slice(-10))];
}

/** Seeds of the weights; more take longer: three runs each. */
const seeds = Number(process.env.ENODIA_RECIPE_SEEDS ?? 1);

for (let seed = 1; seed <= seeds; seed++) {
  test(`with momentum the loss falls further than without: seed ${seed}`, async (t) => {
    const [first, plain] = await lossesOf(0, 1, seed);
    const [, momentum] = await lossesOf(0.7, 1, seed);
    const [, larger] = await lossesOf(0, 2, seed);
    t.diagnostic(
      `from ${first.toFixed(3)} to ${plain.toFixed(3)}; momentum ${(momentum / plain).toFixed(3)}, larger ${(larger / plain).toFixed(3)}`,
    );
    assert.ok(plain <= 0.96 * first, "hardly trained");
    assert.ok(momentum <= 0.992 * plain, `with momentum ${momentum / plain}`);
    assert.ok(momentum <= 0.997 * larger, `experts of twice the weight ${larger / plain}`);
  });
}
