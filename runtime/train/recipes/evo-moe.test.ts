// EvoMoE: experts that spawn of one, each with a fifth of its weights masked, and are trained by a gate that falls from all to two, have a
// lower loss than the one would have had; those without a mask gain less than half of it, since they learn much the same.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { train } from "../loop/run.ts";
import { parseRecipes } from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-evo-moe-"));
after(() => rmSync(folder, { recursive: true }));

const data = join(folder, "data");
await writeCorpus(data, chainedTokens(8193, 7));

const [steps, born, sparse] = [120, 40, 80];
const small = { num_hidden_layers: 2, initializer_range: 0.1, intermediate_size: 16 };
const many = writeModel(join(folder, "many"), "mixtral", { ...small, num_local_experts: 8, num_experts_per_tok: 2 });
const single = writeModel(join(folder, "single"), "mixtral", { ...small, num_local_experts: 1, num_experts_per_tok: 1 });
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The mean loss of the last 20 steps, and experts that a token has in each. */
async function ended(name: string, seed: number, mask?: string) {
  const losses: number[] = [];
  const experts: number[] = [];
  const settings = {
    ...runSettings,
    model: mask === undefined ? single : many,
    seed,
    data,
    out: join(folder, `run ${name} ${seed}`),
    sequences: 16,
    sequenceLength: 32,
    microBatches: 1,
    schedule: { name: "cosine", rate: 3e-3, warmup: 5, steps, floor: 0.1 },
    checkpoint: { everySteps: steps, keep: 1 },
    ...(mask !== undefined && {
      recipes: parseRecipes({ balance: "switch:0.01", spawn: `${born}:${mask}`, gate: `dense-to-sparse:4:0.1:${sparse}` }),
    }),
  } as const;
  const quiet = { now: () => 0, stopped: () => false, onStart() {}, onValidation() {} };
  await train(settings, {
    ...quiet,
    onStep({ loss, tokens, expertRows }) {
      losses.push(loss);
      experts.push(expertRows / (tokens * small.num_hidden_layers));
    },
  });
  return { loss: mean(losses.slice(-20)), experts };
}

/** Seeds of the weights; more take longer: three runs each. */
const seeds = Number(process.env.ENODIA_RECIPE_SEEDS ?? 1);

for (let seed = 1; seed <= seeds; seed++) {
  test(`experts that spawn masked have a lower loss than the one that they are born of, and than those without a mask: seed ${seed}`, async (t) => {
    const one = await ended("one", seed);
    const copies = await ended("copies", seed, "0");
    const masked = await ended("masked", seed, "0.2");
    const [own, control] = [masked.loss / one.loss, copies.loss / one.loss];
    t.diagnostic(`${one.loss.toFixed(3)}; masked ${own.toFixed(4)}, without a mask ${control.toFixed(4)}`);
    assert.ok(own <= 0.993, `masked ${own}`);
    assert.ok(control >= 0.9935, `without a mask ${control}`);
    assert.ok(masked.loss <= 0.998 * copies.loss, `${masked.loss / copies.loss} of those without`);

    // A token has one expert, then most, fewer and fewer of them, and two in the end.
    const { experts } = masked;
    assert.ok(experts.slice(0, born).every((count) => count === 1));
    const falling = [0, 1, 2, 3].map((part) => mean(experts.slice(born + 10 * part, born + 10 * (part + 1))));
    assert.ok((falling[0] as number) >= 6, `${falling}`);
    for (const [i, count] of falling.entries()) assert.ok(i === 0 || count < (falling[i - 1] as number), `${falling}`);
    assert.ok(experts.slice(sparse).every((count) => count === 2));
  });
}
