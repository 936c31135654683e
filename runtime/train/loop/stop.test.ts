// A run that is told to stop ends before the next part of a layer of the next micro-batch, also where a loss of balance works on all micro-batches at
// once, and leaves no trace of the step that it gave up.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus } from "../../../test/kit/training/training.ts";
import { parseRecipes } from "../recipes/index.ts";
import { train } from "./run.ts";
import type { TrainSettings } from "./train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-stop-"));
after(() => rmSync(folder, { recursive: true }));
const data = join(folder, "data");
await writeCorpus(data, chainedTokens(400, 1));

const [steps, microBatches, layers, experts] = [3, 4, 2, 4];
const settings: Omit<TrainSettings, "out"> = {
  ...runSettings,
  init: "checkpoint",
  data,
  validation: data,
  microBatches,
  schedule: { ...runSettings.schedule, steps },
  checkpoint: { everySteps: 10, keep: 2 },
};

/** Stops from the ask of that number on. */
async function run(out: string, balance: string, stopAt = Number.POSITIVE_INFINITY) {
  let asked = 0;
  const asks: number[] = [];
  const end = await train(
    { ...settings, out: join(folder, out), recipes: parseRecipes({ balance }) },
    { now: () => 0, stopped: () => ++asked >= stopAt, onStart() {}, onStep: () => void asks.push(asked), onValidation() {} },
  );
  return { end, asks, asked, metrics: readFileSync(join(folder, out, "metrics.jsonl"), "utf8") };
}

for (const balance of ["", "switch:0.01"]) {
  const name = balance === "" ? "without a loss of balance" : "with one";
  /** Of a step: embedding and head, and each layer's block, forward and backward, of every micro-batch; each expert of a layer, forward and
   *  backward, for the micro-batches that are worked on at once. */
  const stepAsks = microBatches * (3 + 2 * layers) + (balance === "" ? microBatches : 1) * 2 * layers * experts;
  test(`a stop is asked for before each part of each micro-batch, ${name}, and ends a step and validation there`, async () => {
    const straight = await run(`straight${balance}`, balance);
    assert.deepEqual(
      straight.asks,
      Array.from({ length: steps }, (_, i) => (i + 1) * stepAsks),
    );
    const samples = Math.floor(399 / settings.sequenceLength);
    assert.equal(straight.asked, steps * stepAsks + samples * layers * (1 + experts), "validation asks too");
    const at = stepAsks + Math.floor(0.6 * stepAsks);
    const first = await run(`stopped${balance}`, balance, at);
    assert.deepEqual([first.end.step, first.asked], [1, at + 1], "and once more, whether to leave a checkpoint");
    assert.equal((await run(`stopped${balance}`, balance)).metrics, straight.metrics);
    const validating = await run(`validating${balance}`, balance, steps * stepAsks + 3);
    assert.deepEqual([validating.end.step, validating.end.validationLoss, validating.asked], [steps, undefined, steps * stepAsks + 3]);
    const again = await run(`validating${balance}`, balance);
    assert.equal(again.metrics, straight.metrics, "gone on with, it takes the loss on other data");
    assert.equal((await run(`validating${balance}`, balance)).end.validationLoss, straight.end.validationLoss, "and knows it from then on");
  });
}
