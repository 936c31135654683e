// Ranks whose memory holds a part of what the plan gives them: the text is that of ranks that hold all, through moves and a loss.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { within } from "../../test/kit/wait.ts";
import type { WorkerOptions } from "./worker.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[];
/** What one expert takes. */
let unit = 0;
const prompt = [4, 8, 15, 16, 23, 42];
const tokens = 24;

before(async () => {
  store = await tinyStore();
  const alone = new Ranks(store);
  try {
    await alone.launch(0);
    await alone.firstPlan();
    want = await alone.text([0], prompt, tokens);
    unit = alone.byRank.get(0)!.worker.engine.describe().expertResidentBytes;
  } finally {
    await alone.close();
  }
});
after(() => store.remove());

/** Ranks with memory for `share` of their experts. */
async function launched(count: number, share: number, prefetch: WorkerOptions["prefetch"] = "Off"): Promise<Ranks> {
  const each = (store.index.layers * store.index.experts) / count;
  const expertBudgetBytes = unit * Math.ceil(share * each);
  const ranks = new Ranks(store, () => ({ expertBudgetBytes, oversubscription: "Allow", prefetch }));
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}

const memoryOf = (ranks: Ranks, rank: number) => ranks.byRank.get(rank)!.worker.experts;

for (const count of [1, 3]) {
  for (const share of [1, 0.5, 0.1]) {
    test(`${count} ranks with memory for ${share * 100}% of their experts give the same text, all at once too`, async () => {
      const ranks = await launched(count, share);
      try {
        const order = [...ranks.byRank.keys()];
        for (const rank of order) {
          assert.equal(memoryOf(ranks, rank).plan.notReady(), undefined);
          assert.deepEqual(await within(60_000, ranks.text([rank], prompt, tokens), "a text"), want);
        }
        const many = Array.from({ length: 6 }, (_, i) => ranks.text([i % count], prompt, tokens));
        for (const text of await within(60_000, Promise.all(many), "six texts at once")) assert.deepEqual(text, want);
        const misses = order.map((rank) => memoryOf(ranks, rank).onDemand.misses.loads);
        assert.ok(share === 1 ? misses.every((loads) => loads === 0) : misses.some((loads) => loads > 0), `${misses} misses`);
        for (const rank of order) {
          const { residents } = memoryOf(ranks, rank);
          const hosts = memoryOf(ranks, rank).served();
          assert.deepEqual(
            hosts,
            Array.from(hosts, (_, layer) => memoryOf(ranks, rank).state.planned(layer)),
            "what it serves is told",
          );
          assert.ok(residents.bytes <= residents.budgetBytes, `${residents.bytes} of ${residents.budgetBytes} bytes`);
        }
      } finally {
        await ranks.close();
      }
    });
  }
}

for (const count of [1, 3])
  for (const prefetch of ["NextGate", "Residual", "Transitions", "Ring"] as const)
    test(`${count} ranks that load ahead by ${prefetch} give the same text, all at once too`, async () => {
      const ranks = await launched(count, 0.5, prefetch);
      try {
        for (let rank = 0; rank < count; rank++) assert.deepEqual(await within(60_000, ranks.text([rank], prompt, tokens), "a text"), want);
        const many = Array.from({ length: 6 }, (_, i) => ranks.text([i % count], prompt, tokens));
        for (const text of await within(60_000, Promise.all(many), "six texts at once")) assert.deepEqual(text, want);
        const all = [...ranks.byRank.keys()].map((rank) => memoryOf(ranks, rank));
        for (const { residents } of all) assert.ok(residents.bytes <= residents.budgetBytes);
        const loaded = all.reduce((sum, { prefetch: loads }) => sum + (loads?.counts.bytes ?? 0), 0);
        assert.ok(loaded > 0, "nothing was loaded ahead");
      } finally {
        await ranks.close();
      }
    });

test("a move and a lost rank while memory is short cost no request and no token", async () => {
  const ranks = await launched(3, 0.5);
  try {
    const { layers } = store.index;
    let moved = false;
    const texts = Array.from({ length: 4 }, (_, i) =>
      ranks.text([i % 2, (i + 1) % 2], prompt, tokens, async (soFar) => {
        if (i > 0 || soFar.length < 4 || moved) return;
        moved = true;
        const next = Array.from({ length: layers }, (_, layer) => ranks.layerPlan(layer, 2, (expert) => [(expert + layer + 1) % 3]));
        await ranks.carryOut(ranks.nextPlan(next));
        await ranks.kill(2);
      }),
    );
    for (const text of await within(120_000, Promise.all(texts), "texts")) assert.deepEqual(text, want);
    assert.ok(moved);
  } finally {
    await ranks.close();
  }
});

test("steps that decode between the pieces of a prompt's experts end, though memory holds few", async () => {
  const ranks = new Ranks(store, () => ({ expertBudgetBytes: 3 * unit, oversubscription: "Allow", decodeWaitMs: 1 }));
  try {
    await ranks.launch(0);
    await ranks.firstPlan();
    const long = (seed: number) => Array.from({ length: 180 }, (_, i) => (i * 7 + seed * 13) % 250);
    const wanted = await ranks.text([0], long(0), 4);
    const streams = Array.from({ length: 3 }, () => ranks.text([0], prompt, tokens));
    const prompts = Array.from({ length: 4 }, (_, i) => ranks.text([0], long(i), 4));
    const [texts, after] = await within(90_000, Promise.all([Promise.all(streams), Promise.all(prompts)]), "streams beside prompts");
    for (const text of texts) assert.deepEqual(text, want);
    assert.deepEqual(after[0], wanted);
  } finally {
    await ranks.close();
  }
});

test("what is used most stays in memory", async () => {
  const ranks = await launched(1, 0.5);
  try {
    for (let i = 0; i < 4; i++) await ranks.text([0], prompt, tokens);
    const { onDemand, residents } = memoryOf(ranks, 0);
    const before = onDemand.misses.loads;
    await ranks.text([0], prompt, tokens);
    const each = onDemand.misses.loads - before;
    assert.ok(residents.count > 0 && onDemand.misses.seconds > 0);
    assert.ok(each < (tokens + prompt.length) * store.index.layers * store.index.topK, `${each} misses of a text`);
  } finally {
    await ranks.close();
  }
});
