// A stream whose rank leaves goes on at another one with the keys and values that it had there, over real gRPC and with the real engine;
// whatever fails of that, its text is the same, and the pause is bounded.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { createEngine, type EngineKv } from "../engine/engine.ts";

const prompt = Array.from({ length: 400 }, (_, i) => 3 + ((i * 37) % 300));
const other = [...prompt.slice(0, 320), ...prompt.slice(0, 60)];
const [tokens, drainedAt, blockTokens] = [100, 4, 64] as const;
/** Milliseconds: a fetch that comes to nothing may take 5 s, and tests share a machine. */
const pauseMs = 12_000;
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[];
let wantOther: number[];

type Read = EngineKv["read"];
type OnRead = (number: number, read: () => ReturnType<Read>) => ReturnType<Read>;

/** `onRead`: what rank 1 does when a block of it is read. */
async function started(count: number, onRead: OnRead = (_number, read) => read()): Promise<Ranks> {
  const ranks = new Ranks(store, (rank) => ({
    maxContext: 512,
    overrides: {
      createEngine: async (options) => {
        const engine = await createEngine(options);
        const { kv } = engine;
        let reads = 0;
        if (rank === 1 && kv)
          Object.assign(engine, { kv: { ...kv, read: (block: Parameters<Read>[0]) => onRead(++reads, () => kv.read(block)) } });
        return engine;
      },
    },
  }));
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}

const drain = (ranks: Ranks, rank: number) => ranks.control(rank).drain({ sender: ranks.sender() });
const computed = async (ranks: Ranks, rank: number) => (await ranks.byRank.get(rank)!.worker.engine.stats()).prefillTokens;
const metric = async (ranks: Ranks, rank: number, series: RegExp) =>
  Number(new RegExp(`^${series.source}\\S* (\\S+)`, "m").exec(await ranks.byRank.get(rank)!.worker.metrics.text())?.[1] ?? 0);

/** The text of a stream for which `leave` is called in its middle, and the longest time between two of its tokens. */
async function moved(ranks: Ranks, leave: () => unknown) {
  let [at, longest] = [performance.now(), 0];
  const text = await ranks.text([1, 0], prompt, tokens, async (soFar) => {
    if (soFar.length > 1) longest = Math.max(longest, performance.now() - at);
    at = performance.now();
    if (soFar.length === drainedAt) await leave();
  });
  return { text, longest };
}

before(async () => {
  store = await tinyStore();
  const one = await started(1);
  want = await one.text([0], prompt, tokens);
  wantOther = await one.text([0], other, 8);
  await one.close();
});
after(() => store.remove());

test("a drained stream goes on with its keys and values: hardly a token is computed anew, and its text is the same", async () => {
  const ranks = await started(2);
  try {
    const first = await computed(ranks, 0);
    const { text, longest } = await moved(ranks, () => drain(ranks, 1));
    assert.deepEqual(text, want);
    const anew = (await computed(ranks, 0)) - first;
    assert.ok(anew < 32 + blockTokens, `${anew} tokens were computed anew`);
    assert.ok(longest < pauseMs, `${longest} ms`);
    assert.equal(await metric(ranks, 0, /enodia_kv_fetches_total\{result="ok"/), 1);
    const blocks = await metric(ranks, 0, /enodia_kv_fetch_blocks_total\{result="fetched"/);
    assert.ok(blocks >= Math.ceil(prompt.length / blockTokens), `${blocks} blocks`);
    const bytes = await metric(ranks, 0, /enodia_kv_fetch_bytes_total/);
    assert.ok(bytes > 0 && bytes === (await metric(ranks, 1, /enodia_kv_served_bytes_total/)), `${bytes}`);
  } finally {
    await ranks.close();
  }
});

test("a prompt that begins like one of another rank takes that beginning from there", async () => {
  const ranks = await started(2);
  try {
    await ranks.text([1], prompt, 1);
    const first = await computed(ranks, 0);
    assert.deepEqual(await ranks.text([0], other, 8, undefined, undefined, 1), wantOther);
    assert.equal((await computed(ranks, 0)) - first, other.length - 320);
  } finally {
    await ranks.close();
  }
});

/** Of rank 1, after the drain: when it dies, or says nothing any more. */
const failures: Readonly<Record<string, { readonly at: number; readonly whole: number; readonly dies: boolean }>> = {
  "dies when its stream is drained": { at: 0, whole: 0, dies: true },
  "dies when it is asked for the first block": { at: 1, whole: 0, dies: true },
  "dies behind the first block": { at: 2, whole: 1, dies: true },
  "dies before the last block": { at: 7, whole: 6, dies: true },
  "says nothing": { at: 1, whole: 0, dies: false },
  "falls silent behind three blocks": { at: 4, whole: 3, dies: false },
};
for (const [what, { at, whole, dies }] of Object.entries(failures)) {
  test(`a rank that ${what}: the rest is computed, and the text is the same`, async () => {
    let killed: Promise<unknown> | undefined;
    const ranks = await started(2, (number, read) => {
      if (number !== at) return read();
      if (dies) killed ??= ranks.kill(1);
      return new Promise(() => {});
    });
    try {
      const first = await computed(ranks, 0);
      const { text, longest } = await moved(ranks, async () => {
        await drain(ranks, 1);
        if (at === 0) killed ??= ranks.kill(1);
      });
      assert.deepEqual(text, want);
      assert.ok(longest < pauseMs, `${longest} ms`);
      const anew = (await computed(ranks, 0)) - first;
      const blocks = await metric(ranks, 0, /enodia_kv_fetch_blocks_total\{result="fetched"/);
      assert.ok(blocks <= whole, `${blocks} blocks came`);
      assert.ok(anew <= prompt.length + tokens - blocks * blockTokens, `${anew} tokens were computed anew beside ${blocks} blocks`);
      await killed;
    } finally {
      await ranks.close();
    }
  });
}
