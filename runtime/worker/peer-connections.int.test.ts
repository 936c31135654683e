// Three workers with the real engine whose frames go from engine to engine: the text is that of one worker, whatever is lost meanwhile,
// and main threads are asked for loads on demand alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { parse, sum } from "../../test/kit/kube/scrape.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { createEngine, type EngineOptions, type OnDemandFrame } from "../engine/engine.ts";
import type { WorkerOverrides } from "./worker.ts";

const prompt = [5, 9, 17, 33];
const tokens = 50;
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[];
before(async () => {
  store = await tinyStore();
  const one = new Ranks(store);
  try {
    await one.launch(0);
    await one.firstPlan();
    want = await one.text([0], prompt, tokens);
  } finally {
    await one.close();
  }
});
after(() => store.remove());

/** Three ranks that have sent each other nothing, and the frames for which their main threads had to load. */
async function launched(own: WorkerOverrides = {}): Promise<{ ranks: Ranks; byMain: OnDemandFrame[] }> {
  const byMain: OnDemandFrame[] = [];
  const counting = (options: EngineOptions) => {
    const run = (frame: OnDemandFrame) => {
      byMain.push(frame);
      return options.onDemand.run(frame);
    };
    return createEngine(Object.assign({}, options, { onDemand: { run } }));
  };
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: counting, ...own } }));
  for (let rank = 0; rank < 3; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return { ranks, byMain };
}

/** The same with connections between all of them: frames ask for connections, so that each rank has sent some. */
async function started(): Promise<{ ranks: Ranks; byMain: OnDemandFrame[] }> {
  const both = await launched();
  const { ranks } = both;
  try {
    for (const rank of ranks.byRank.keys()) assert.deepEqual(await ranks.text([rank], prompt, tokens), want);
    for (const rank of ranks.byRank.keys()) await untilConnections(ranks, rank, 2);
  } catch (caught) {
    await ranks.close();
    throw caught;
  }
  return both;
}

async function samples(ranks: Ranks, rank: number) {
  const port = ranks.byRank.get(rank)?.worker.metricsPort;
  return parse(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text());
}
const untilConnections = (ranks: Ranks, rank: number, connections: number): Promise<void> =>
  untilGauge(ranks, rank, "enodia_dispatch_engine_connections", connections);
async function untilGauge(ranks: Ranks, rank: number, name: string, value: number): Promise<void> {
  let now = -1;
  for (const end = Date.now() + 20_000; now !== value; now = sum(await samples(ranks, rank), name)) {
    assert.ok(Date.now() < end, `rank ${rank}: ${name} is ${now}, not ${value}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("frames go from engine to engine, are counted, and the text is that of one worker", async () => {
  const { ranks, byMain } = await started();
  try {
    byMain.length = 0;
    for (const rank of [0, 1, 2]) assert.deepEqual(await ranks.text([rank], prompt, tokens), want);
    assert.equal(byMain.length, 0);
    const counted = async (name: string, labels = {}) => {
      let all = 0;
      for (const rank of [0, 1, 2]) all += sum(await samples(ranks, rank), name, labels);
      return all;
    };
    await new Promise((resolve) => setTimeout(resolve, 1_200)); // the last sums are told
    const sent = await counted("enodia_dispatch_frames_total", { result: "ok" });
    assert.ok(sent > 3 * tokens, `${sent} frames`);
    assert.equal(await counted("enodia_dispatch_served_frames_total", { result: "ok" }), sent);
    assert.equal(await counted("enodia_dispatch_duration_seconds_count"), sent);
    assert.ok((await counted("enodia_dispatch_bytes_total", { direction: "received" })) > 0);
    const served = await Promise.all(
      [0, 1, 2].map(async (rank) => sum(await samples(ranks, rank), "enodia_expert_rows_total", { origin: "remote" })),
    );
    assert.ok(
      served.every((rows) => rows > 0),
      `${served}`,
    );
  } finally {
    await ranks.close();
  }
});

test("a host that has lost an expert declines, and loads it when there is no other", async () => {
  const { ranks, byMain } = await started();
  try {
    const [layer, expert] = [0, (ranks.byRank.get(1)?.worker.engine.hosted()[0] ?? [])[0] as number];
    for (const each of ranks.byRank.get(1)?.worker.engine.hosted()[0] ?? [])
      await ranks.byRank.get(1)?.worker.engine.unloadExpert(layer, each);
    byMain.length = 0;
    assert.deepEqual(await ranks.text([0], prompt, tokens), want);
    assert.ok(
      byMain.some((frame) => frame.layer === layer && frame.pairExperts.includes(expert)),
      `expert ${expert}`,
    );
    assert.ok(
      byMain.every((frame) => frame.layer === layer),
      "other layers go on by connections",
    );
  } finally {
    await ranks.close();
  }
});

test("connections go with their heartbeats when no frame comes, and a later text is the same", async () => {
  const { ranks } = await launched({ streamIdleMs: 1_000 });
  const opened = async () => sum(await samples(ranks, 0), "enodia_dispatch_streams_opened_total");
  try {
    assert.equal(await opened(), 0, "nothing was sent");
    for (let texts = 1; texts <= 2; texts++) {
      assert.deepEqual(await ranks.text([0], prompt, tokens), want);
      assert.ok((await opened()) >= 2 * texts, "a heartbeat to each of the others, and again");
      await untilGauge(ranks, 0, "enodia_dispatch_streams", 0);
      await untilConnections(ranks, 0, 0);
      assert.deepEqual(ranks.suspects(0), []);
    }
  } finally {
    await ranks.close();
  }
});

test("a host that dies in the middle of a text costs nothing, and its connection is gone", async () => {
  const { ranks } = await started();
  try {
    let killed: Promise<unknown> | undefined;
    const text = await ranks.text([0], prompt, tokens, (soFar) => {
      if (soFar.length === 8) killed = ranks.kill(1);
    });
    assert.deepEqual(text, want);
    await killed;
    await untilConnections(ranks, 0, 1);
    await until("rank 0 distrusts it", () => ranks.suspects(0).includes(1));
  } finally {
    await ranks.close();
  }
});
