// Blocks of keys and values from a source to a fetch over a link that fails in each way: what came whole is written, and it ends in time.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { within } from "../../test/kit/wait.ts";
import type { KvLook, WrittenBlock } from "../engine/engine.ts";
import type { Peers } from "../experts/peers.ts";
import { type Chunk, type KvRead, KvReadSchema } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { BulkRead, ReadLink } from "../net/read-link.ts";
import { create } from "../net/service.ts";
import { silentLog } from "../observe/log.ts";
import { createMetrics } from "../observe/runtime-metrics.ts";
import { KvFetch } from "./kv-fetch.ts";
import { KvSource } from "./kv-source.ts";

const tokenBytes = 40_000; // a block has more than one chunk
const text = Uint32Array.from({ length: 200 }, (_, i) => i);
const ends = [96, 160, 192];
const idOf = (to: number): string => to.toString(16).padStart(32, "0");
const look: KvLook = {
  ...{ here: 32, tokenBytes, tokenMs: undefined },
  blocks: ends.map((to, i) => ({ id: idOf(to), before: idOf(ends[i - 1] ?? 32), from: ends[i - 1] ?? 32, to })),
};
const rowsOf = (from: number, to: number): Uint8Array => new Uint8Array((to - from) * tokenBytes).map((_, i) => (from + i) % 251);

type Sent = (offset: number, data: Uint8Array) => Promise<void>;
interface World {
  /** What the source has; a block in the middle may be gone. */
  readonly has?: (to: number) => boolean;
  /** Stands between the source and the fetch; `at`: chunks before. */
  readonly between?: (send: Sent, offset: number, data: Uint8Array, at: number) => Promise<void>;
  readonly refuse?: (reads: number) => AppError | undefined;
  readonly write?: (written: WrittenBlock) => boolean;
  readonly tokenMs?: number;
  /** Milliseconds of a look. */
  readonly lookMs?: number;
  /** Each text is another one. */
  readonly apart?: boolean;
  /** When an engine reads, and when it writes. */
  readonly pauses?: { readonly ofSource: () => Promise<void>; readonly ofFetch: () => Promise<void> };
}

function world({
  tokenMs = 5.3,
  lookMs = 0,
  apart = false,
  has = () => true,
  between = (send, offset, data) => send(offset, data),
  refuse = () => undefined,
  write = () => true,
  pauses = { ofSource: async () => {}, ofFetch: async () => {} },
}: World) {
  const source = new KvSource({
    kv: {
      read: async ({ id, from, to }) => {
        await pauses.ofSource();
        return id === idOf(to) && has(to) ? rowsOf(from, to) : undefined;
      },
    },
    pace: { begin: () => () => {}, rate: (limit) => limit },
    ...{ authorize: () => {}, onServed: () => {} },
  });
  let [reads, looks] = [0, 0];
  const read: ReadLink["read"] = (what) => {
    const chunks = new Readable({ objectMode: true, read() {} });
    const left = new AbortController();
    const send: Sent = async (offset, data) => void chunks.push({ offset: BigInt(offset), data } as Chunk);
    let at = 0;
    const call = {
      getAuthContext: () => ({}),
      signal: left.signal,
      send: (offset: number, data: Uint8Array) => between(send, offset, data, at++),
    };
    const refused = refuse(reads++);
    const serving = refused ? Promise.reject(refused) : source.serve(create(KvReadSchema, what.value as KvRead), call);
    serving.then(
      () => chunks.push(null),
      (error) => chunks.destroy(error),
    );
    chunks.on("error", () => {});
    return Object.assign(chunks, { cancel: (reason?: AppError) => void chunks.destroy(reason) }) as unknown as BulkRead;
  };
  const written: number[] = [];
  const metrics = createMetrics({ process: "worker", version: "0", constants: {} });
  const fetch = new KvFetch({
    kv: {
      look: async () => {
        if (lookMs > 0) await sleep(lookMs, undefined, { ref: false });
        const here = written.at(-1) ?? look.here;
        const blocks = look.blocks.filter(({ to }) => to > here);
        looks += 1;
        return {
          ...look,
          tokenMs,
          here,
          blocks: apart ? blocks.map((block) => ({ ...block, id: idOf(1000 * looks + block.to) })) : blocks,
        };
      },
      read: async () => undefined,
      write: async (block) => {
        await pauses.ofFetch();
        if (!write(block)) return false;
        assert.deepEqual(block.data, rowsOf(block.block.from, block.block.to));
        assert.deepEqual(block.tokens, text.slice(block.block.from, block.block.to));
        written.push(block.block.to);
        return true;
      },
    },
    peers: { self: { rank: 0 }, usable: () => true, clients: () => ({ reads: { read } }), onChange: () => () => {} } as unknown as Peers,
    ...{ pace: { begin: () => () => {} }, metrics, log: silentLog },
  });
  const bring = async (signal = new AbortController().signal, must = false) => {
    await within(10_000, fetch.bring({ tokens: text, cacheSalt: "" }, 1, { signal, must }), "the fetch");
    const counted = /^enodia_kv_fetches_total\{.*result="(\w+)".* [1-9]/gm;
    return { written, results: [...(await metrics.text()).matchAll(counted)].map(([, result]) => result), reads };
  };
  return { bring };
}

const flipped = (data: Uint8Array): Uint8Array => data.map((byte, i) => (i === 7 ? byte ^ 1 : byte));
const cases: Readonly<Record<string, readonly [World, readonly number[], string]>> = {
  "all of it": [{}, ends, "ok"],
  "a source that has nothing": [{ has: () => false }, [], "none"],
  "a source that has lost the last block": [{ has: (to) => to < 192 }, [96, 160], "part"],
  "a source that is busy at first": [
    { refuse: (reads) => (reads < 2 ? new AppError("busy", { code: "Busy", retry: "backoff" }) : undefined) },
    ends,
    "ok",
  ],
  "a source that refuses": [{ refuse: () => new AppError("no", { code: "Forbidden" }) }, [], "error"],
  "a bit of the first block": [{ between: (send, offset, data, at) => send(offset, at === 0 ? flipped(data) : data) }, [], "error"],
  "a bit of the second block": [{ between: (send, offset, data, at) => send(offset, at === 5 ? flipped(data) : data) }, [96], "part"],
  "a bit of a digest": [{ between: (send, offset, data, at) => send(offset, at === 3 ? flipped(data) : data) }, [], "error"],
  "a chunk that is cut": [{ between: (send, offset, data, at) => send(offset, at === 1 ? data.subarray(9) : data) }, [], "error"],
  "a chunk that is too long": [
    { between: (send, offset, data, at) => send(offset, at === 2 ? Buffer.concat([data, data]) : data) },
    [],
    "error",
  ],
  "a chunk that comes twice": [
    {
      between: async (send, offset, data, at) => {
        await send(offset, data);
        if (at === 1) await send(offset, data);
      },
    },
    [],
    "error",
  ],
  "a source that falls silent": [
    { between: (send, offset, data, at) => (at < 4 ? send(offset, data) : new Promise(() => {})) },
    [96],
    "part",
  ],
  "a pool that is full": [{ write: ({ block }) => block.to < 160 }, [96], "part"],
};
for (const [what, [given, want, result]] of Object.entries(cases)) {
  test(`${what}: blocks that came whole are written, in order`, async () => {
    const { written, results } = await world(given).bring();
    assert.deepEqual([written, results], [want, [result]]);
  });
}

/** A pause between two steps, when so many blocks wait. */
function pauseOf(blocks: number): () => Promise<void> {
  const waiting: (() => void)[] = [];
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      if (waiting.length >= blocks) for (const each of waiting.splice(0)) each();
    });
}

test("blocks wait together for a pause of an engine that computes, at both ends", async () => {
  const behindFirst = pauseOf(2);
  let reads = 0;
  const ofSource = async (): Promise<void> => (reads++ === 0 ? undefined : behindFirst());
  const { written, results } = await world({ tokenMs: 30, pauses: { ofSource, ofFetch: pauseOf(3) } }).bring();
  assert.deepEqual([written, results], [ends, ["ok"]]);
});

test("where rows were faster than bytes the text is computed, and no rank is asked, but for a stream that goes on", async () => {
  const late: World["between"] = (send, offset, data) => new Promise((resolve) => setTimeout(() => resolve(send(offset, data)), 60));
  const { bring } = world({ between: late, tokenMs: 2 });
  const { reads } = await bring();
  const again = await bring();
  assert.ok(again.reads === reads && again.results.includes("skipped"), JSON.stringify(again.results));
  const must = await bring(undefined, true);
  assert.deepEqual([must.written, must.reads > reads], [ends, true], "a stream goes on with it");
});

test("a fetch that waits for its turn ends with its request, and those before it go on", async () => {
  const { bring } = world({ refuse: () => new AppError("busy", { code: "Busy", retry: "backoff" }), apart: true });
  const before = Array.from({ length: 4 }, () => bring().then(() => "before"));
  const waiting = bring(AbortSignal.timeout(50)).then(() => "waiting");
  assert.equal(await Promise.race([waiting, ...before]), "waiting");
  await Promise.all(before);
});

test("a look at what is missing takes of the time of its fetch, and ends with its request", async () => {
  const { reads, results } = await world({ tokenMs: 0.1, lookMs: 300 }).bring();
  assert.deepEqual([reads, results], [0, ["skipped"]], "computing would be done");
  const startedAt = performance.now();
  await world({ lookMs: 60_000 }).bring(AbortSignal.timeout(50));
  assert.ok(performance.now() - startedAt < 5_000);
});

test("texts with a common beginning fetch it once, and one that waits for a fetch that fails fetches it itself", async () => {
  const { bring } = world({});
  const [one, other] = await Promise.all([bring(), bring()]);
  assert.deepEqual([one.written, other.reads], [ends, 1]);
  const busyOnce = world({ refuse: (reads) => (reads === 0 ? new AppError("no", { code: "Forbidden" }) : undefined) });
  const [, second] = await Promise.all([busyOnce.bring(), busyOnce.bring()]);
  assert.deepEqual([second.written, second.reads], [ends, 2]);
});

test("a source refuses reads of other sizes than blocks have", async () => {
  const source = new KvSource({
    ...{ kv: { read: async () => undefined }, pace: { begin: () => () => {}, rate: () => 0 }, authorize: () => {}, onServed: () => {} },
  });
  const call = { getAuthContext: () => ({}), signal: new AbortController().signal, send: async () => {} };
  const ids = (count: number) => new Uint8Array(16 * count);
  const bad = [
    { from: 0, to: 0, ids: ids(0) },
    { from: 8, to: 64, ids: ids(1) },
    { from: 0, to: 65, ids: ids(2) },
    { from: 0, to: 128, ids: ids(1) },
    { from: 0, to: 64, ids: ids(2) },
    { from: 0, to: 2 ** 32 - 16, ids: ids(600) },
  ];
  for (const request of bad)
    await assert.rejects(
      source.serve(create(KvReadSchema, request), call),
      { code: "InvalidRequest" },
      JSON.stringify([request.from, request.to]),
    );
  await source.serve(create(KvReadSchema, { from: 16, to: 96, ids: ids(2) }), call);
});
