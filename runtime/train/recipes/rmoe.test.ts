// RMoE: what the gates of later layers learn reaches the gates before them through the state that rows carry; through a cell that keeps
// nothing of the state it does not. A run trains the cell, and its store has it for serving.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { chainedData, modelOf, run } from "../../../test/kit/training/recipe-runs.ts";
import { runSettings, tinyModel } from "../../../test/kit/training/training.ts";
import { gradientsAt, openLoneRank } from "../../../test/kit/training/training-ranks.ts";
import { createTraining } from "../../compute/open-training.ts";
import { openModel } from "../../engine/thread/open.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { familyOf } from "../../models/index.ts";
import { layoutOf, unitsOf } from "../model/layout.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "../families/rmoe/config.json"), "utf8")) as Record<string, unknown>;
const width = config.router_hidden_size as number;
const projection = "model.layers.0.mlp.gate.proj.weight";

/** The length of the gradient of the first gate's projection, whose own choices hang on nothing. */
async function gradientOfFirst(change: (tensor: string, values: Float32Array) => void): Promise<number> {
  const family = familyOf(config);
  const program = family.program(config);
  const layout = layoutOf(program, family.expertTensors);
  const parameters = gaussian(3, layout.floats, 0.2);
  const all = unitsOf(layout).flatMap((unit) => unit.parameters);
  for (const { tensor, from, size } of all) {
    const values = parameters.subarray(from, from + size);
    if (tensor === "model.layers.0.mlp.gate.weight") values.fill(0);
    change(tensor, values);
  }
  const ids = (seed: number): Int32Array => randomIds(seed, 24, program.vocab).data as Int32Array;
  const lone = { program, layout, microBatches: [{ inputs: ids(1), targets: ids(2) }], sequenceLength: 12 };
  const backend = await createTraining({ threads: 1 });
  try {
    const { gradients } = await gradientsAt(await openLoneRank(backend, lone), lone, parameters);
    const { from, size } = all.find(({ tensor }) => tensor === projection)!;
    return Math.hypot(...gradients.subarray(from, from + size));
  } finally {
    await backend.close();
  }
}

test("later gates' gradients reach an earlier one through the state, and not through a cell that keeps nothing of it", async () => {
  const held = await gradientOfFirst(() => {});
  // The state's products are 0, and so is its share: every value of the new state is new.
  const dropped = await gradientOfFirst((tensor, values) => {
    if (tensor.startsWith("model.router_cell.state.")) values.fill(0);
    if (tensor === "model.router_cell.input.bias") values.fill(-60, width, 2 * width);
  });
  assert.ok(held >= 1e-4, `${held} through the state`);
  assert.ok(dropped <= 1e-9 * held, `${dropped} without`);
});

test("a run trains the cell that all gates share, and its store is served with it", async () => {
  const { store } = await run({ ...runSettings, model: modelOf("rmoe", {}), data: await chainedData(513) });
  const memory = { kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 };
  const served = await openModel({ storeDir: store!, backend: "cpu", codec: "f32", ...memory });
  const { data: bias } = await served.store.readDense("model.router_cell.input.bias");
  await served.close();
  assert.ok(bias.length === 3 * width && bias.some((value) => value !== 0)); // it begins with zeros
});
