// Every family is trained: the gradient of its whole network, experts, gates and ends, is the slope of its loss, with and without losses
// of balance.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { gradientsAt, openLoneRank } from "../../../test/kit/training/training-ranks.ts";
import { createTraining } from "../../compute/open-training.ts";
import { randomIds } from "../../kernels/random.ts";
import { familyOf } from "../../models/index.ts";
import { keptFloats } from "../ranks/fits.ts";
import { having, parseRecipes } from "../recipes/index.ts";
import { openStart } from "./initial-weights.ts";
import { layoutOf } from "./layout.ts";

const golden = join(import.meta.dirname, "../../../test/golden");
const backend = await createTraining({ threads: 1 });
after(() => backend.close());

const sequenceLength = 12;
/** Of a step along the gradient: so small that tokens keep their experts. */
const step = 2e-4;

/** So high a rate that the slope of the loss of balance is as steep as the other's. */
const recipes = ["", "switch:1,device:0.5:2"];
const cases = globSync("{tiny-f32,families/*}/config.json", { cwd: golden }).flatMap((path) => {
  const config = JSON.parse(readFileSync(join(golden, path), "utf8")) as Record<string, unknown>;
  const hasExperts = familyOf(config)
    .program(config)
    .layers.some(({ kind }) => kind === "moe");
  return recipes.slice(0, hasExperts ? undefined : 1).map((recipe) => ({ path, config, recipe }));
});

for (const { path, config, recipe } of cases) {
  const dir = join(golden, dirname(path));
  test(`${dirname(path)}${recipe && `, ${recipe}`}: the loss falls along the gradient as its length says`, async () => {
    const family = familyOf(config);
    const program = family.program(config);
    const layout = layoutOf(program, family.expertTensors);
    const parameters = new Float32Array(layout.floats);
    const source = { dir, config, family, program, files: new Map(), tokenizerDigest: "" };
    const weights = await openStart(source, { init: "checkpoint", seed: 1, initCodec: undefined });
    await weights.fill(layout, (part, index) => {
      const { from, to } = layout.parts[part]!.units[index]!;
      return parameters.subarray(from, to);
    });
    await weights.close();
    const rows = 4 * sequenceLength;
    const ids = (seed: number): Int32Array => randomIds(seed, rows, program.vocab).data as Int32Array;
    const microBatch = { inputs: ids(7), targets: ids(8) };
    const recipes = parseRecipes({ balance: recipe });
    const lone = { program, layout, microBatches: [microBatch], sequenceLength, recipes };
    const rank = await openLoneRank(backend, lone);
    const lossOf = async (at: Float32Array): Promise<number> => {
      const { end } = await gradientsAt(rank, lone, at);
      return end.loss + end.balanceLoss;
    };

    const { end, gradients: found } = await gradientsAt(rank, lone, parameters);
    assert.equal(end.balanceLoss > 0, having(recipes, "loss").length > 0);
    const kept = program.layers.reduce((sum, layer) => sum + rows * keptFloats(layer), 0);
    assert.equal(rank.takeKeptFloatsMost(), kept, "what the check of memory reckons with");
    rank.state.load(parameters);
    const [sum] = (await rank.losses({ step: 0, groups: 1, group: async () => microBatch, stopped: () => false }))!;
    assert.equal(sum! / rows, end.loss);
    const length = Math.sqrt(found.reduce((sum, value) => sum + value * value, 0));
    const at = (along: number): Promise<number> => lossOf(parameters.map((value, i) => value + (along * found[i]!) / length));
    const slope = ((await at(step)) - (await at(-step))) / (2 * step);
    assert.ok(Math.abs(slope - length) <= 0.01 * length, `slope ${slope}, length of the gradient ${length}`);
  });
}
