// The least ranks of a run: those that fit, found for any memory, and one fewer does not; of each stage its own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { rankBytes } from "../../placement/training/rank-bytes.ts";
import { openSource } from "../model/model-source.ts";
import { memoryProblem } from "../ranks/fits.ts";
import { parseRecipes, trainedModel } from "../recipes/index.ts";
import { evenRanks, leastRanks, rankedModel } from "./needs.ts";
import type { TrainSettings } from "./train-settings.ts";

const settings: TrainSettings = {
  model: tinyModel.dir,
  init: "random",
  seed: 1,
  data: "unused",
  validation: undefined,
  out: "unused",
  sequences: 8,
  sequenceLength: 16,
  microBatches: 8,
  schedule: { name: "constant", rate: 1e-3, warmup: 0, steps: 4, floor: 1 },
  optimizer: { name: "adamw", values: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0 } },
  optimizerMemory: undefined,
  clip: 1,
  checkpoint: { everySteps: 4, keep: 1 },
  codecs: ["f32"],
  threads: 1,
};
const model = trainedModel(await openSource(tinyModel.dir), settings);

const counts = [1, 2, 4, 8];

/** What the rank that needs most needs, of so many. */
function needed(ranks: number, of = model): number {
  const ranked = rankedModel(settings, of, evenRanks(ranks));
  return Math.max(...ranked.facts.node.map((_, rank) => rankBytes(memoryProblem(ranked, rank)).all));
}

test("as many ranks as a memory is just enough for are the least, and with a byte less they are not", async () => {
  const needs = counts.map((ranks) => needed(ranks));
  const least = async (memory: number): Promise<number | undefined> => (await leastRanks(settings, memory))(0);
  assert.equal(await least(Math.max(...needs)), 1);
  assert.equal(await least(Math.min(...needs) - 1), undefined);
  const found = await least(needed(8));
  assert.ok(found !== undefined && needed(found) <= needed(8));
  assert.ok(found === 1 || needed(found - 1) > needed(8));
});

test("a run whose experts spawn needs ranks for the one it has, and from the spawn on for all", async () => {
  const born: TrainSettings = { ...settings, recipes: parseRecipes({ spawn: "2:0" }) };
  const single = trainedModel(await openSource(tinyModel.dir), born);
  const memory = Math.max(...counts.map((ranks) => needed(ranks, single)));
  const least = await leastRanks(born, memory);
  const whole = await leastRanks(settings, memory);
  assert.deepEqual([0, 1, 2, 4].map(least), [1, 1, whole(0), whole(0)]);
  assert.notEqual(whole(0), 1);
});
