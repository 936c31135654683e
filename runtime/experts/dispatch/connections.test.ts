// Streams to other ranks are opened by the first frame and closed when none comes, over the real wire: closing loses no frame, makes
// nobody suspect, and a stream that is opened again gives the same rows.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { seeded } from "../../../operator/planner/random.ts";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { until } from "../../../test/kit/wait.ts";

import { type RankModel, rankModel, type ScaleRank, startRank } from "../../../test/scale/ranks.ts";
import { createMetrics, type Metrics } from "../../observe/runtime-metrics.ts";

const idleMs = 300;
const world = { namespace: "default", deployment: "mix", deploymentUid: "d" } as const;
const model: RankModel = rankModel({ layers: 1, experts: 4, bytes: 1, budgetBytes: 4 });
const { hidden } = model.info;
const count = 4;
const ranks: ScaleRank[] = [];
let metrics: Metrics<"worker">;

before(async () => {
  const ca = createTestCa();
  metrics = createMetrics({ process: "worker", version: "test", constants: { namespace: "default", deployment: "mix", rank: "0" } });
  for (let rank = 0; rank < count; rank++) {
    const tls = ca.issue(`rank-${rank}`, world.namespace, world.deployment);
    const pod = { rank, podName: `rank-${rank}`, podUid: `uid-${rank}`, host: "127.0.0.1", grpcPort: 0, tls, model };
    ranks.push(await startRank({ ...world, ...pod, streamIdleMs: idleMs, ...(rank === 0 ? { metrics } : {}) }));
  }
  const members = ranks.map(({ identity, grpcPort }) => {
    return { ...identity, podName: `rank-${identity.rank}`, address: `127.0.0.1:${grpcPort}`, state: "active" as const };
  });
  const hosts = [[0], [1], [2], [3]];
  const layers = [{ layer: 0, epoch: 1, hosts, weights: hosts.map(() => [1000]) }];
  const { modelDigest } = model.info;
  for (const { plane } of ranks) {
    plane.experts.peers.apply({ version: 1, members });
    await plane.experts.plan.adopt({ deploymentUid: "d", epoch: 1, parentEpoch: 0, planHash: "h", modelDigest, layers });
  }
  await until("all are ready", () => ranks.every((rank) => rank.ready()));
});
after(() => Promise.all(ranks.map((rank) => rank.kill())));

const dispatch = () => (ranks[0] as ScaleRank).plane.experts.dispatch;
const suspects = () => ranks.map((_, rank) => (ranks[0] as ScaleRank).plane.experts.peers.isSuspect(rank));
/** The row that an expert of that rank answers: the one that it is sent. */
async function ask(rank: number, value: number): Promise<void> {
  const rows = new Float32Array(hidden).fill(value);
  const pair = { pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(rank) };
  assert.deepEqual(await dispatch().dispatch({ layer: 0, epoch: 1, rank, phase: "decode", rows, ...pair }), rows);
}
const counted = async (name: string) => {
  const lines = (await metrics.text()).split("\n").filter((line) => line.startsWith(name));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};

test("ranks that send nothing have no stream, and the first frame opens one to its host alone", async () => {
  await sleep(4 * idleMs);
  assert.deepEqual(
    ranks.map(({ plane }) => plane.experts.dispatch.streams),
    [0, 0, 0, 0],
  );
  await ask(1, 3);
  assert.equal(dispatch().streams, 1);
  assert.equal(await counted("enodia_dispatch_streams{"), 1);
});

/** Uses the streams to ranks 1 and 2, one by frames and one by its connection, for two idle times; false: this machine stood still for one. */
async function keepBothOpen(): Promise<boolean> {
  await ask(1, 1);
  await ask(2, 1);
  const begun = performance.now();
  for (let last = begun; last - begun < 2 * idleMs; ) {
    await ask(1, 2);
    dispatch().used([2, 3]);
    const now = performance.now();
    if (now - last > idleMs / 2) return false;
    last = now;
    await sleep(idleMs / 10);
  }
  return true;
}

test("a stream is kept while frames come, here or on the connection beside it, and closed when none came for the idle time", async (t) => {
  let calm = false;
  for (let tries = 0; tries < 20 && !calm; tries++) calm = await keepBothOpen();
  if (calm) assert.equal(dispatch().streams, 2, "both were used, and a connection that nobody has opens no stream");
  else t.diagnostic("this machine stood still for half of an idle time, again and again");
  await until("nothing is open", () => dispatch().streams === 0);
  assert.deepEqual(suspects(), [false, false, false, false]);
  assert.ok((await counted('enodia_dispatch_streams_closed_total{reason="idle"')) >= 2);
});

test("frames at any time around the closing are answered, by streams that are opened again", async () => {
  const opened = await counted("enodia_dispatch_streams_opened_total");
  const random = seeded(7);
  const one = async (rank: number) => {
    for (let i = 0; i < 8; i++) {
      await sleep(idleMs * (0.9 + 1.2 * random.next()));
      await Promise.all([ask(rank, i), ask(rank, -i)]);
    }
  };
  await Promise.all([1, 2, 3].map(one));
  assert.ok((await counted("enodia_dispatch_streams_opened_total")) - opened > 6, "streams were closed in between");
  assert.deepEqual(suspects(), [false, false, false, false]);
});

test("a rank that is gone is found out by the frame that needs it, and another stands in", async () => {
  await until("nothing is open", () => dispatch().streams === 0);
  await ranks[3]?.kill();
  const rows = new Float32Array(hidden).fill(5);
  const pair = { pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(3) };
  assert.deepEqual(await dispatch().dispatch({ layer: 0, epoch: 1, rank: 3, phase: "decode", rows, ...pair }), rows);
  assert.equal(suspects()[3], true);
});
