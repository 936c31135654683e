// MomentumSMoE: over six layers a momentum has a lower loss after as many steps than the same layers without, and than those with experts
// of twice the weight, which momentum gives them too.
import assert from "node:assert/strict";
import { balanced, chainedData, cosine, meanOf, modelOf, run, testOfSeeds } from "../../../test/kit/training/recipe-runs.ts";

const data = await chainedData();

/** The mean loss of the first and the last ten of some steps. */
async function lossesOf(momentum: number, momentum_step: number, seed: number): Promise<readonly [number, number]> {
  const small = { num_hidden_layers: 6, initializer_range: 0.1, intermediate_size: 16 };
  const model = modelOf("momentum-smoe", { ...small, momentum, momentum_step });
  const { reports } = await run({ model, data, seed, sequenceLength: 16, schedule: cosine(60), recipes: balanced });
  const losses = reports.map(({ loss }) => loss);
  return [meanOf(losses.slice(0, 10)), meanOf(losses.slice(-10))];
}

testOfSeeds("with momentum the loss falls further than without", async (seed, t) => {
  const [first, plain] = await lossesOf(0, 1, seed);
  const [, momentum] = await lossesOf(0.7, 1, seed);
  const [, larger] = await lossesOf(0, 2, seed);
  const [ratio, other] = [momentum / plain, larger / plain].map((value) => value.toFixed(3));
  t.diagnostic(`from ${first.toFixed(3)} to ${plain.toFixed(3)}; momentum ${ratio}, larger ${other}`);
  assert.ok(plain <= 0.96 * first, "hardly trained");
  assert.ok(momentum <= 0.992 * plain, `with momentum ${momentum / plain}`);
  assert.ok(momentum <= 0.997 * larger, `experts of twice the weight ${larger / plain}`);
});
