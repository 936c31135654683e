// MoE++: with two thirds of the rows of two routed experts it has a lower loss than they, where one routed alone has a higher one; and the
// weight of free experts says how many rows the others have.
import assert from "node:assert/strict";
import { test } from "node:test";
import { chainedData, cosine, meanOf, modelOf, run, testOfSeeds } from "../../../test/kit/training/recipe-runs.ts";
import { parseRecipes } from "./index.ts";

const data = await chainedData();
const small = { num_hidden_layers: 2, initializer_range: 0.1, intermediate_size: 16, num_experts_per_tok: 2 };
const plain = (routed: number): string => modelOf("mixtral", { ...small, num_experts_per_tok: routed });
const plusPlus = (tau: number): string => modelOf("moe-plus-plus", { ...small, free_experts_tau: tau, norm_topk_prob: true });

/** Of the last 20 steps: mean loss, and the share of the rows of two experts a token and layer that were computed. */
async function ended(model: string, balance: string, { steps = 100, seed = 1 } = {}) {
  const { loss, reports } = await run({ model, data, seed, schedule: cosine(steps), recipes: parseRecipes({ balance }) });
  const shares = reports.map(({ tokens, expertRows }) => expertRows / (tokens * small.num_hidden_layers * 2));
  return { loss, share: meanOf(shares.slice(-20)) };
}

testOfSeeds(
  "two of eight experts and four free ones have two thirds of the rows of two of eight, and no higher loss; one of eight has one",
  async (seed, t) => {
    const two = await ended(plain(2), "switch:0.01", { seed });
    const one = await ended(plain(1), "switch:0.01", { seed });
    const free = await ended(plusPlus(0.5), "switch:0.1", { seed });
    const ratios = [one, free].map(({ loss }) => (loss / two.loss).toFixed(3));
    t.diagnostic(`${two.loss.toFixed(3)}; one ${ratios[0]}, free ${ratios[1]} with ${free.share.toFixed(3)} of the rows`);
    assert.equal(two.share, 1);
    assert.equal(one.share, 0.5);
    assert.ok(free.share <= 0.7, `${free.share} of the rows`);
    assert.ok(free.loss <= two.loss, `with free experts ${free.loss / two.loss}`);
    assert.ok(one.loss >= 1.03 * two.loss, `one alone ${one.loss / two.loss}`);
  },
);

test("the less free experts weigh, the fewer rows the others have; without a loss of balance they have most", async (t) => {
  const shareOf = async (tau: number, balance: string): Promise<number> => (await ended(plusPlus(tau), balance, { steps: 40 })).share;
  const taus = [1, 0.5, 0.1];
  const shares: number[] = [];
  for (const tau of taus) shares.push(await shareOf(tau, "switch:0.3"));
  const without = await shareOf(0.1, "switch:1e-9");
  /** Where f and P of the loss are equal. */
  const balanced = taus.map((tau) => (tau * 8) / (tau * 8 + 4));
  const reported = taus.map((tau, i) => `tau ${tau}: ${shares[i]!.toFixed(3)}, at balance ${balanced[i]!.toFixed(3)}`);
  t.diagnostic(`${reported.join("; ")}; without a loss ${without.toFixed(3)}`);
  const [even, half, tenth] = shares as [number, number, number];
  assert.ok(even - half >= 0.05 && half - tenth >= 0.1, reported.join("; "));
  assert.ok(without - tenth >= 0.15, `${without} without a loss`);
});
