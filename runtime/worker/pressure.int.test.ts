// Memory full of expert replicas, a rank dies, and nobody plans: what only the dead rank held gets the place of what others hold too.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore, within } from "../../test/kit/ranks/ranks.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
const prompt = [4, 8, 15];
const tokens = 16;
const expertBytes = 1_000;
/** hosts[layer][expert]; rank 2 holds two experts alone, ranks 0 and 1 hold the others twice or alone. */
const full = [
  [[0, 1], [1, 0], [2], [0, 1]],
  [[1, 0], [2], [0, 1], [1]],
];

before(async () => {
  store = await tinyStore();
});
after(() => store.remove());

const planned = (rank: number): number => full.flat().filter((hosts) => hosts.includes(rank)).length;

/** Three ranks whose memory the plan fills to the last slot. */
async function filled(): Promise<Ranks> {
  const ranks = new Ranks(store, (rank) => ({
    expertBudgetBytes: rank === 2 ? 1 << 20 : expertBytes * planned(rank),
    overrides: { createEngine: doubleEngine(store.index) },
  }));
  for (const rank of [0, 1, 2]) await ranks.launch(rank);
  await ranks.push();
  await ranks.carryOut(ranks.nextPlan(full.map((hosts, layer) => ranks.layerPlan(layer, 0, (expert) => hosts[expert]!))));
  return ranks;
}

/** Expert loads on demand that a rank counts. */
const onDemandLoads = async (ranks: Ranks, rank: number): Promise<number> => {
  const text = await ranks.byRank.get(rank)!.worker.metrics.text();
  return Number(/^enodia_expert_on_demand_loads_total\{result="ok"[^}]*\} (\d+)/m.exec(text)?.[1] ?? 0);
};

test("with memory full of expert replicas and a rank dead, experts that only it held are served all the same", async () => {
  const ranks = await filled();
  try {
    const want = await ranks.text([0], prompt, tokens);
    await ranks.kill(2);
    assert.deepEqual(await within(10_000, ranks.text([0], prompt, tokens), "a text of rank 0"), want);
    assert.deepEqual(await within(10_000, ranks.text([1], prompt, tokens), "a text of rank 1"), want);
    for (const rank of [0, 1]) {
      const { residents } = ranks.byRank.get(rank)!.worker.experts;
      assert.ok(residents.bytes <= residents.budgetBytes);
    }
    // A lost expert was loaded once by each rank at most (a rank that does not yet miss the dead one sends others on), and stays.
    const loads = async () => (await onDemandLoads(ranks, 0)) + (await onDemandLoads(ranks, 1));
    const before = await loads();
    assert.ok(before >= 2 && before <= 4, `${before} loads of 2 lost experts`);
    for (const rank of [0, 1]) assert.deepEqual(await ranks.text([rank], prompt, tokens), want);
    assert.equal(await loads(), before);
  } finally {
    await ranks.close();
  }
});
