// Recipes of balance: the laws of their slopes, that fractions are those of the whole step whatever its micro-batches, and
// that a run with one keeps experts busier than the same run without.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { chainedData, meanOf, modelOf, run } from "../../../test/kit/training/recipe-runs.ts";
import { runSettings, tinyModel } from "../../../test/kit/training/training.ts";
import { gradientsAt, openLoneRank } from "../../../test/kit/training/training-ranks.ts";
import { createTraining } from "../../compute/open-training.ts";
import { openModel } from "../../engine/thread/open.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import type { StepReport } from "../loop/run-step.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { layoutOf, unitsOf } from "../model/layout.ts";
import { having, parseRecipes } from "./index.ts";

/** Eight experts of DeepSeek's gate with a bias of choice; the spread makes the drawn gate uneven. */
const uneven = { n_group: 1, topk_group: 1, num_experts_per_tok: 2, num_hidden_layers: 2, initializer_range: 0.1 };
const settings = {
  model: modelOf("deepseek-v3", uneven),
  data: await chainedData(),
  microBatches: 4,
  schedule: { ...runSettings.schedule, rate: 3e-3, steps: 50 },
};

const slopesOf = (text: string, rows: readonly number[], topK = 2): Float64Array => {
  const [loss] = having(parseRecipes({ balance: text }), "loss");
  return loss!.hook({ rows, topK }, loss!.numbers);
};

const unsuited: Record<string, { readonly balance: string; readonly changed: Partial<TrainSettings>; readonly message: RegExp }> = {
  "a bias where gates have none": {
    balance: "bias:0.01",
    changed: { model: tinyModel.dir },
    message: /"bias:0.01"; gates of family mixtral have no bias of choice \(those of DeepSeek-V3 have\); take a loss instead/,
  },
  "groups that do not divide the experts": { balance: "device:0.1:3", changed: {}, message: /groups must divide the number of experts, 8/ },
  "a model without experts": {
    balance: "switch:0.1",
    changed: { model: modelOf("llama", {}) },
    message: /the model has no experts to balance; leave it out/,
  },
};

for (const [name, { balance, changed, message }] of Object.entries(unsuited)) {
  test(`${name}: refused before the first step`, async () => {
    await assert.rejects(run({ ...settings, ...changed, recipes: parseRecipes({ balance }) }), { code: "BadOption", message });
  });
}

test("a balanced layer has the loss `rate`, and one that sends all to a few has more", () => {
  const lossOf = (rows: readonly number[], shares: readonly number[]): number =>
    slopesOf("switch:0.01", rows).reduce((sum, slope, i) => sum + slope * shares[i]!, 0);
  assert.ok(Math.abs(lossOf([4, 4, 4, 4], [2, 2, 2, 2]) - 0.01) < 1e-15);
  assert.ok(Math.abs(lossOf([8, 8, 0, 0], [4, 4, 0, 0]) - 0.02) < 1e-15);
});

test("devices of one expert each are balanced as experts are, and devices see no difference within", () => {
  const rows = [7, 1, 3, 5];
  assert.deepEqual(slopesOf("device:0.02:4", rows), slopesOf("switch:0.02", rows));
  assert.deepEqual(slopesOf("device:0.02:2", rows), slopesOf("device:0.02:2", [4, 4, 4, 4]));
  assert.notDeepEqual(slopesOf("switch:0.02", rows), slopesOf("switch:0.02", [4, 4, 4, 4]));
});

test("a bias rises for experts below the mean, falls above, and stays at it", () => {
  const [bias] = having(parseRecipes({ balance: "bias:0.5" }), "bias");
  assert.deepEqual([...bias!.hook({ rows: [6, 2, 4, 4], topK: 2 }, bias!.numbers)], [-0.5, 0.5, 0, 0]);
});

test("four micro-batches have the gradient of balance of one; fractions of a micro-batch's own rows have another", async () => {
  const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
  const program = programOf(config);
  const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
  const parameters = gaussian(3, layout.floats, 0.1);
  const backend = await createTraining({ threads: 1 });
  const microBatches = [1, 2, 3, 4].map((seed) => ({
    inputs: randomIds(seed, 24, program.vocab).data as Int32Array,
    targets: randomIds(seed + 10, 24, program.vocab).data as Int32Array,
  }));
  const joined = (name: "inputs" | "targets"): Int32Array => Int32Array.from(microBatches.flatMap((microBatch) => [...microBatch[name]]));
  const whole = { inputs: joined("inputs"), targets: joined("targets") };
  const gates = unitsOf(layout).flatMap((unit) => unit.parameters.filter(({ name }) => name.endsWith("gate.weight")));
  /** So high a rate that the other loss is nothing beside it. */
  const recipes = [{ name: "switch", numbers: { rate: 1e6 } }];
  /** Gradients of the gates; micro-batches that are worked on at once are a whole step to the recipe. */
  const gradientsOf = async (given: typeof microBatches, microBatchesAtOnce: number): Promise<readonly number[]> => {
    const lone = { program, layout, microBatches: given, sequenceLength: 12, recipes, microBatchesAtOnce };
    const { gradients } = await gradientsAt(await openLoneRank(backend, lone), lone, parameters);
    return gates.flatMap(({ from, size }) => [...gradients.subarray(from, from + size)]);
  };
  const distance = (a: readonly number[], b: readonly number[]): number =>
    Math.hypot(...a.map((value, i) => value - b[i]!)) / Math.hypot(...b);
  try {
    const one = await gradientsOf([whole], 1);
    assert.ok(distance(await gradientsOf(microBatches, 4), one) <= 1e-5);
    const ofMicroBatches = (await gradientsOf(microBatches, 1)).map((value) => value / microBatches.length);
    assert.ok(distance(ofMicroBatches, one) >= 0.05, "fractions of micro-batches are too like those of all, so this test cannot fail");
  } finally {
    await backend.close();
  }
});

/** Of the last steps. */
const lastOf = (reports: readonly StepReport[], what: "imbalance" | "balanceLoss" | "loss"): number =>
  meanOf(reports.slice(-20).map((report) => report[what]));

test("each recipe balances what it is about, and a run without does not; the loss is no worse by 2%", async (t) => {
  const runOf = async (balance: string) => (await run({ ...settings, recipes: parseRecipes({ balance }) })).reports;
  // A rate so small that it tells the loss and changes nothing.
  const none = await runOf("device:1e-9:4");
  const imbalance = lastOf(none, "imbalance");
  const excess = lastOf(none, "balanceLoss") / 1e-9 - 1;
  t.diagnostic(`without: imbalance ${imbalance.toFixed(2)}, loss of devices ${excess.toFixed(4)} above its least`);
  assert.ok(imbalance >= 2, `a run without is balanced by itself (${imbalance})`);
  for (const recipe of ["switch:0.1", "bias:0.01"]) {
    const found = await runOf(recipe);
    t.diagnostic(`${recipe}: imbalance ${lastOf(found, "imbalance").toFixed(2)}`);
    assert.ok(lastOf(found, "imbalance") <= 1.5, `${recipe}: ${lastOf(found, "imbalance")}`);
    assert.ok(lastOf(found, "loss") <= 1.02 * lastOf(none, "loss"), `${recipe}: loss ${lastOf(found, "loss")}, ${lastOf(none, "loss")}`);
  }
  const devices = await runOf("device:0.1:4");
  const left = lastOf(devices, "balanceLoss") / 0.1 - 1;
  t.diagnostic(`device:0.1:4: loss of devices ${left.toFixed(4)} above its least, imbalance ${lastOf(devices, "imbalance").toFixed(2)}`);
  assert.ok(left <= 0.2 * excess, `${left} of ${excess}`);
});

test("serving has the bias that a run ends with, which moved by its rate in each step", async () => {
  const schedule = { ...settings.schedule, steps: 4 };
  const { store } = await run({ ...settings, schedule, recipes: parseRecipes({ balance: "bias:0.01,switch:0.01" }) });
  const model = await openModel({
    storeDir: store!,
    backend: "cpu",
    codec: "f32",
    kvPoolBytes: 1 << 20,
    maxContext: 32,
    threads: 1,
  });
  try {
    const { data: bias } = await model.store.readDense("model.layers.1.mlp.gate.e_score_correction_bias");
    const steps = [...bias].map((value) => Math.round(value / 0.01));
    assert.ok(steps.some((count) => count !== 0));
    for (const [i, count] of steps.entries()) assert.ok(Math.abs(count) <= 4 && Math.abs(bias[i]! - count * 0.01) < 1e-6);
  } finally {
    await model.close();
  }
});
