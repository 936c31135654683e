// The transfer limit of a Prepare at a real worker: it holds for all layers together, for peers and for the store, and falls
// while the tokens are slow.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import { type DoubleOptions, doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { fromFetched, toPlan } from "../net/mapping.ts";
import { addFetched, type Fetched } from "../placement/cost.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
let unitBytes: number;
/** Timers and calls on a busy machine; a limit that is not kept is off by a factor. */
const slackMs = 600;

before(async () => {
  store = await tinyStore();
  unitBytes = store.index.codecs.f32!.units[0]![0]!.bytes;
});
after(() => store.remove());

async function started(engine: DoubleOptions = {}): Promise<Ranks> {
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index, engine) } }));
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}

/** Everything to rank 1: it lacks half of the experts of each layer. */
const allToOne = (ranks: Ranks) =>
  ranks.nextPlan(Array.from({ length: store.index.layers }, (_, layer) => ranks.layerPlan(layer, 0, () => [1])));
const moves = () => (store.index.layers * store.index.experts) / 2;

/** Prepares at rank 1; milliseconds until all layers were READY, and the bytes they took. */
async function timed(ranks: Ranks, plan: PlacementPlan, bytesPerSecond: number) {
  const started = performance.now();
  const fetched = new Map<Fetched["source"], Fetched>();
  let bytes = 0;
  const request = { sender: ranks.sender(), plan: toPlan(plan), maxBytesPerSecond: BigInt(bytesPerSecond) };
  for await (const { event } of ranks.control(1).prepare(request)) {
    assert.notEqual(event.case, "failed");
    if (event.case !== "ready") continue;
    bytes += Number(event.value.bytes);
    for (const each of event.value.fetched) addFetched(fetched, fromFetched(each));
  }
  return { ms: performance.now() - started, bytes, fetched: [...fetched.values()] };
}

async function metric(ranks: Ranks, rank: number, pattern: RegExp): Promise<number> {
  const found = pattern.exec(await ranks.byRank.get(rank)!.worker.metrics.text());
  return Number(found?.[1] ?? Number.NaN);
}

for (const from of ["peers", "the store"] as const) {
  test(`layers that are prepared side by side from ${from} share one limit`, async () => {
    const ranks = await started();
    try {
      if (from === "the store") await ranks.push({ 0: "lost" });
      const limit = unitBytes * 4; // four units a second
      const { ms, bytes, fetched: taken } = await timed(ranks, allToOne(ranks), limit);
      assert.equal(bytes, moves() * unitBytes);
      assert.deepEqual(
        taken.map(({ source, bytes }) => [source, bytes]),
        [[from === "peers" ? 0 : "store", bytes]],
        "it is said what came from whom",
      );
      assert.ok(
        taken.every(({ seconds }) => seconds > 0 && seconds * 1000 <= ms),
        "in a part of the time",
      );
      const source = from === "peers" ? "peer" : "store";
      const fetched = await metric(ranks, 1, new RegExp(`enodia_shard_fetches_total\\{source="${source}",result="ok"[^}]*\\} (\\d+)`));
      // The first plan came from the store, too.
      assert.ok(fetched >= moves(), `${fetched} units from ${from}`);
      const leastMs = ((moves() - 1) / 4) * 1000;
      assert.ok(ms >= leastMs * 0.95, `${moves()} units took ${ms} ms, the limit allows ${leastMs} ms at the least`);
      assert.ok(ms <= leastMs + 250 + slackMs, `${moves()} units took ${ms} ms: the limit of ${leastMs} ms was not used`);
    } finally {
      await ranks.close();
    }
  });
}

test("an unlimited Prepare does not wait", async () => {
  const ranks = await started();
  try {
    const { ms } = await timed(ranks, allToOne(ranks), 0);
    assert.ok(ms < slackMs, `${ms} ms`);
  } finally {
    await ranks.close();
  }
});

test("while answers come slower a move goes slower, at the receiver and at the source, and says so", async () => {
  const engine = { layerMs: 1 };
  const ranks = await started(engine);
  try {
    const paces = [0, 1].map((rank) => ranks.byRank.get(rank)!.worker.experts.pace);
    const answers = (tokens: number) => Promise.all([0, 1].map((rank) => ranks.text([rank], [4, 8, 15], tokens)));
    await answers(100);
    const limit = unitBytes * 2;
    const prepared = timed(ranks, allToOne(ranks), limit);
    await until("the transfer to be under way", () => paces.every((pace) => pace.effectiveRate > 0));
    assert.equal(await metric(ranks, 1, /enodia_transfer_rate_bytes_per_second\{[^}]*\} (\d+)/), limit);
    engine.layerMs = 40; // far above what a busy machine adds
    const slow = answers(60);
    await until("both ends to go slower", () => paces.every((pace) => pace.rate(limit) <= limit / 2));
    for (const rank of [0, 1]) assert.ok((await metric(ranks, rank, /enodia_transfer_backoffs_total\{[^}]*\} (\d+)/)) >= 1);
    assert.equal((await prepared).bytes, moves() * unitBytes);
    await slow;
    await until("nothing to be limited any more", () => paces.every((pace) => pace.effectiveRate === 0));
  } finally {
    await ranks.close();
  }
});
