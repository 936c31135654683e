// Shared and residual experts, which are fields of DeepSeek's config.json: beside gates of nothing a layer is a dense one to the bit, and
// a shared expert with one routed reaches the loss of two routed with half their rows on the wire.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { balanced, chainedData, modelOf, run, testOfSeeds } from "../../../test/kit/training/recipe-runs.ts";
import { gradientsAt, openLoneRank } from "../../../test/kit/training/training-ranks.ts";
import { createTraining } from "../../compute/open-training.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { familyOf } from "../../models/index.ts";
import { layoutOf, unitsOf, viewsOf } from "../model/layout.ts";

const data = await chainedData();

/** Two layers of eight narrow experts, of which a token has `routed`, beside `shared` that all tokens have. */
const sharing = (routed: number, shared: number, more: Readonly<Record<string, unknown>> = {}): string =>
  modelOf("deepseek-v2", {
    topk_method: "greedy",
    first_k_dense_replace: 0,
    num_hidden_layers: 2,
    routed_scaling_factor: 1,
    initializer_range: 0.1,
    moe_intermediate_size: 16,
    num_experts_per_tok: routed,
    n_shared_experts: shared,
    ...more,
  });

/** Of gates so small that h + gate x y is h. */
const nothing = { routed_scaling_factor: 1e-30 };

test("beside gates of nothing, shared experts are a dense layer of their summed width, forward and backward", async () => {
  const backend = await createTraining({ threads: 1 });
  const ids = (seed: number): Int32Array => randomIds(seed, 24, 320).data as Int32Array;
  /** The loss, and gradients of the dense part by tensor. */
  const found = async (dir: string) => {
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as Record<string, unknown>;
    const family = familyOf(config);
    const program = family.program(config);
    const layout = layoutOf(program, family.expertTensors);
    const parameters = new Float32Array(layout.floats);
    const units = unitsOf(layout);
    const calledDense = (tensor: string): string => tensor.replace("mlp.shared_experts.", "mlp.");
    for (const { tensor, from, size } of units.flatMap((unit) => unit.parameters)) {
      const seed = [...calledDense(tensor)].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 65_521, 7);
      parameters.set(gaussian(seed, size, 0.3), from);
    }
    const lone = { program, layout, microBatches: [{ inputs: ids(1), targets: ids(2) }], sequenceLength: 12 };
    const { end, gradients } = await gradientsAt(await openLoneRank(backend, lone), lone, parameters);
    const dense = units.filter(({ expert }) => expert === undefined).flatMap((unit) => Object.entries(viewsOf(gradients, unit)));
    const sums = dense.filter(([tensor]) => !tensor.includes("mlp.gate.")).map(([tensor, sum]) => [calledDense(tensor), sum] as const);
    return { loss: end.loss, sums: new Map(sums) };
  };
  try {
    const dense = await found(sharing(1, 1, { first_k_dense_replace: 2, intermediate_size: 32 }));
    assert.deepEqual(await found(sharing(1, 2, nothing)), dense);
    assert.notDeepEqual(await found(sharing(1, 2)), dense, "gates that say nothing at all, so this test cannot fail");
  } finally {
    await backend.close();
  }
});

testOfSeeds("a shared expert and one routed have the loss of two routed; neither of the two alone has", async (seed, t) => {
  const lossOf = async (model: string): Promise<number> => (await run({ model, data, seed, recipes: balanced })).loss;
  const two = await lossOf(sharing(2, 0));
  const overTwo = async (model: string): Promise<number> => (await lossOf(model)) / two;
  const residual = await overTwo(sharing(1, 1));
  const routed = await overTwo(sharing(1, 0));
  const shared = await overTwo(sharing(1, 1, nothing));
  const reported = [residual, routed, shared].map((ratio) => ratio.toFixed(3)).join(", ");
  t.diagnostic(`loss over that of two routed (${two.toFixed(3)}): shared and routed, routed alone, shared alone: ${reported}`);
  assert.ok(residual <= 1.015, `shared and routed: ${residual}`);
  assert.ok(routed >= 1.015, `routed alone: ${routed}`);
  assert.ok(shared >= 1.03, `shared alone: ${shared}`);
});
