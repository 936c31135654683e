// FedSpeed's gradient a little uphill: it is that of parameters a radius along the first one, those that are kept stay to the bit, and
// ranks change nothing.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { World } from "../../../test/kit/training/local-ranks.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { testFssdp } from "../../../test/kit/training/training-ranks.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { familyOf } from "../../models/index.ts";
import { layoutOf } from "../model/layout.ts";
import { optimizerSettings } from "../optimizers/index.ts";
import { parseRecipes } from "./index.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const family = familyOf(config);
const program = family.program(config);
const layout = layoutOf(program, family.expertTensors);
const [sequences, sequenceLength, microBatches] = [4, 8, 4];
const radius = Math.fround(0.05);

const ids = (seed: number): Int32Array => randomIds(seed, sequenceLength, program.vocab).data as Int32Array;
const batch = Array.from({ length: microBatches }, (_, microBatch) => ({ inputs: ids(microBatch), targets: ids(100 + microBatch) }));

/** Gradients of a step at these parameters, which are too few steps away from them to move, and the parameters after it. */
async function stepAt(parameters: Float32Array, ranks: number, local: string) {
  const world = await World.open(
    {
      program,
      layout,
      facts: { node: Array.from({ length: ranks }, (_, rank) => rank), speed: new Array<number>(ranks).fill(1) },
      fssdp: { ...testFssdp, planner: "hecate", microBatchesAtOnce: ranks === 1 ? 1 : microBatches },
      microBatches,
      sequences,
      sequenceLength,
      schedule: { name: "constant", rate: 1e-30, warmup: 0, steps: 1, floor: 0 },
      optimizer: optimizerSettings("sgd", { beta1: 0 }),
      clip: 1e9,
      recipes: parseRecipes({ local }),
      threads: 1,
    },
    parameters,
  );
  try {
    const { gradientNorm, loss } = await world.step(1, batch);
    const gradients = new Float32Array(layout.floats);
    for (const rank of world.ranks) rank.state.save(gradients, "g");
    return { gradients, gradientNorm, loss, parameters: world.parameters() };
  } finally {
    await world.close();
  }
}

test("gradients are those of parameters uphill, which come back to the bit, on any number of ranks", async () => {
  const parameters = gaussian(3, layout.floats, 0.1);
  const here = await stepAt(parameters, 1, "");
  const scale = radius / here.gradientNorm;
  const uphill = parameters.map((value, i) => value + scale * here.gradients[i]!);
  const there = await stepAt(uphill, 1, "");
  assert.notDeepEqual(there.gradients, here.gradients);
  assert.ok(there.loss > here.loss, "uphill");
  for (const ranks of [1, 2, 3]) {
    const perturbed = await stepAt(parameters, ranks, `fedspeed:4:1:${radius}`);
    assert.deepEqual(perturbed.gradients, there.gradients, `${ranks} ranks`);
    assert.deepEqual(perturbed.parameters, parameters);
    assert.deepEqual([perturbed.loss, perturbed.gradientNorm], [here.loss, there.gradientNorm], "the loss is that of the model");
  }
});
