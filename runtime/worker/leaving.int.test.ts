// A worker that is told to end, over real gRPC: requests run to their end there and new ones are refused, peers get its experts until a
// plan has moved them away, and all ranks of a deployment end together when nobody plans.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until, within } from "../../test/kit/wait.ts";

const prompt = [1, 3, 11];
const tokens = 60;
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[];

async function started(count: number): Promise<Ranks> {
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index, { layerMs: 4 }) } }));
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}
const workerOf = (ranks: Ranks, rank: number) => ranks.byRank.get(rank)!.worker;

before(async () => {
  store = await tinyStore();
  const one = await started(1);
  want = await one.text([0], prompt, tokens);
  await one.close();
});
after(() => store.remove());

test("its request runs to its end on the same rank, new ones go elsewhere, and it ends when its experts are away", async () => {
  const ranks = await started(3);
  try {
    const leaver = workerOf(ranks, 2);
    let ended = false;
    let told: Promise<void> | undefined;
    const text = await ranks.text([2], prompt, tokens, (soFar) => {
      if (soFar.length !== 5) return;
      told = leaver.handOver(60_000).then(() => {
        ended = true;
      });
    });
    assert.deepEqual(text, want);
    await until("its status says so", () => ranks.statuses.get(2)?.leaving === true);
    await assert.rejects(ranks.text([2], prompt, 4), (error: Error) => /leaving; ask another/.test(String(error.cause)));
    assert.deepEqual(await ranks.text([0], prompt, tokens), want, "the others still compute with its experts");
    assert.equal(ended, false);
    const layers = ranks.plan!.layers.map(({ layer }) => ranks.layerPlan(layer, 0, (expert) => [(expert + layer) % 2]));
    await ranks.carryOut(ranks.nextPlan(layers));
    await within(2_000, told!, "rank 2 ends");
  } finally {
    await ranks.close();
  }
});

test("all ranks told to end while nobody watches them end together", async () => {
  const ranks = await started(2);
  try {
    ranks.leaveAlone();
    await within(5_000, Promise.all([0, 1].map((rank) => workerOf(ranks, rank).handOver(60_000))), "both end");
  } finally {
    await ranks.close();
  }
});
