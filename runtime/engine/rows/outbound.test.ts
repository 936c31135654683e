// Who is asked for a frame, one after another, with hosts that answer by a script in place of connections.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { Declined } from "../../net/rows-codec.ts";
import { Signal } from "../../net/signal.ts";
import { notHosted } from "../../placement/frames/not-hosted.ts";
import type { RemoteFrame } from "../api.ts";
import type { FrameWays } from "./frame-run.ts";
import { Outbound } from "./outbound.ts";
import type { AskedFrame } from "./peer-connections.ts";
import { PeerCounters } from "./peer-counters.ts";

const hidden = 4;
type Answer = Float32Array | Declined | AppError | undefined;
type Script = (frame: AskedFrame) => Answer;

const noGates = (): Float32Array => assert.fail("retries ask for no sums");
const rowsFor = ({ pairExperts }: Pick<RemoteFrame, "pairExperts">) => new Float32Array(pairExperts.length * hidden).fill(7);
const gone: Declined = { type: "notHosted", epoch: 1, experts: [0] };
const busy = (afterMs: number): Declined => ({ type: "busy", afterMs });
const never: Script = () => assert.fail("it was asked");
const sevens = [7, 7, 7, 7];

interface Own {
  readonly waitMs?: number;
  /** Hosts of the one expert, of the newest plan and of the one before. */
  readonly hosts?: readonly number[];
  readonly before?: readonly number[];
  /** True when this rank has it in memory, and room for it. */
  readonly here?: boolean;
  readonly room?: boolean;
  /** The error with which a load here fails. */
  readonly failure?: AppError;
  /** True when a load here never ends. */
  readonly stuck?: boolean;
  /** Ranks without a connection. */
  readonly unreached?: readonly number[];
}

function rankZero(scripts: Readonly<Record<number, Script>>, own: Own = {}) {
  const { hosts = [1], before, here = false, room = true, failure, stuck = false, unreached = [], waitMs } = own;
  /** "rank", or "rank on demand", in the order in which they were asked; 0 is a load here. */
  const asked: string[] = [];
  const down = new Set<number>();
  const connections = {
    ...{ hidden, pending: 0, rank: 0, changed: new Signal(), counters: new PeerCounters() },
    usable: () => Object.keys(scripts).flatMap((rank) => (down.has(Number(rank)) ? [] : [Number(rank)])),
    reach: async (rank: number) => !unreached.includes(rank),
    ask: (frame: AskedFrame) => {
      const script = scripts[frame.rank];
      if (script === undefined || unreached.includes(frame.rank) || down.has(frame.rank)) return undefined;
      asked.push(`${frame.rank}${frame.onDemand ? " on demand" : ""}`);
      const answer = script(frame);
      if (answer instanceof AppError) return Promise.reject(answer);
      return answer === undefined ? new Promise<never>(() => {}) : Promise.resolve(answer);
    },
  };
  const ways: FrameWays = {
    connections,
    serve: async (batch) => {
      assert.equal(batch.origin, "local");
      if (here) return rowsFor(batch);
      throw notHosted([0], "not in memory");
    },
    onDemand: async (frame) => {
      assert.equal(frame.origin, "local");
      asked.push("0 on demand");
      if (failure) throw failure;
      if (stuck) return new Promise<never>(() => {});
      if (!room) throw notHosted([0], "memory is full");
      return rowsFor(frame);
    },
  };
  const outbound = new Outbound(ways, waitMs);
  const tables = (epoch: number, ranks: readonly number[]) => ({
    rank: 0,
    layers: [{ layer: 0, epoch, hosts: [ranks], weights: [[1000]] }],
  });
  if (before) outbound.setRouting(tables(0, before));
  outbound.setRouting(tables(1, hosts));
  const dispatch = (rank = 1) => outbound.dispatch(frame(rank), noGates).then((rows) => [...(rows as Float32Array)]);
  return { outbound, connections, dispatch, asked, down };
}
const frame = (rank: number): RemoteFrame => ({
  ...{ layer: 0, epoch: 1, rank, phase: "decode", rows: new Float32Array(hidden) },
  ...{ pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(0) },
});
const late = new AppError("the host's engine said nothing", { code: "Silent", retry: "backoff" });
const damaged = (code: string) => new AppError("the store is damaged", { code });
/** Rank 1 answers by what it is asked for. */
const unlessOnDemand =
  (answer: Answer): Script =>
  (asked) =>
    asked.onDemand ? rowsFor(asked) : answer;

const cases: Readonly<Record<string, { scripts: Readonly<Record<number, Script>>; own?: Own; rank?: number; asked: readonly string[] }>> = {
  "a host that has it is asked once": { scripts: { 1: rowsFor, 2: never }, asked: ["1"] },
  "what is planned here and not in memory is asked of another host": {
    scripts: { 1: rowsFor },
    own: { hosts: [0, 1] },
    rank: 0,
    asked: ["1"],
  },
  "and loaded here when there is none": { scripts: { 1: never }, own: { hosts: [0] }, rank: 0, asked: ["0 on demand"] },
  "a host that lacks it is not followed by a load while a third host has it": {
    scripts: { 1: () => gone, 2: rowsFor },
    own: { hosts: [0, 1, 2] },
    asked: ["1", "2"],
  },
  "a host of the plan before has it still": { scripts: { 1: () => gone, 2: rowsFor }, own: { before: [2] }, asked: ["1", "2"] },
  "a host of the newest plan is asked before those of the plan before": {
    scripts: { 1: rowsFor, 2: never, 3: never, 4: never },
    own: { before: [2, 3, 4] },
    rank: 5,
    asked: ["1"],
  },
  "a host of the plan before loads nothing on demand": {
    scripts: { 1: () => gone, 2: (asked) => (asked.onDemand ? never(asked) : gone), 3: rowsFor },
    own: { before: [2], room: false },
    asked: ["1", "2", "1 on demand", "3 on demand"],
  },
  "the only host loads what it lacks": { scripts: { 1: unlessOnDemand(gone), 2: never }, asked: ["1", "1 on demand"] },
  "a host whose connection ended is followed by the next host": {
    scripts: { 1: () => late, 2: rowsFor },
    own: { hosts: [1, 2] },
    asked: ["1", "2"],
  },
  "and asked again when it is the only one": { scripts: { 1: unlessOnDemand(late) }, asked: ["1", "1 on demand"] },
  "a host that is not reached is passed over": { scripts: { 1: never, 2: rowsFor }, own: { hosts: [1, 2], unreached: [1] }, asked: ["2"] },
  "without room here the next rank loads what nobody holds": {
    scripts: { 2: unlessOnDemand(gone), 3: unlessOnDemand(gone) },
    own: { hosts: [0], room: false },
    rank: 0,
    asked: ["0 on demand", "3 on demand"],
  },
  "where the store here is damaged another rank loads it": {
    scripts: { 2: rowsFor },
    own: { hosts: [0], failure: damaged("CorruptShard") },
    rank: 0,
    asked: ["0 on demand", "2 on demand"],
  },
  "where too much is loaded here already another rank loads it": {
    scripts: { 2: rowsFor },
    own: { hosts: [0], failure: damaged("Busy") },
    rank: 0,
    asked: ["0 on demand", "0 on demand", "0 on demand", "2 on demand"],
  },
  "where the store here is stuck too": {
    scripts: { 2: rowsFor },
    own: { hosts: [0], failure: damaged("Unavailable") },
    rank: 0,
    asked: ["0 on demand", "2 on demand"],
  },
};
for (const [name, { scripts, own, rank, asked }] of Object.entries(cases)) {
  test(name, async () => {
    const zero = rankZero(scripts, own);
    assert.deepEqual(await zero.dispatch(rank), sevens);
    assert.deepEqual([...zero.asked].sort(), [...asked].sort());
    assert.equal(zero.asked[0], asked[0]);
    assert.equal(zero.outbound.pending, 0);
  });
}

const failures: Readonly<
  Record<string, { scripts: Readonly<Record<number, Script>>; own?: Own; rank?: number; code: string; message?: RegExp }>
> = {
  "a host that never answers costs the frame its time, and no more": {
    scripts: { 1: () => undefined },
    own: { waitMs: 300 },
    rank: 0,
    code: "ExpertUnavailable",
  },
  "a load here that does not end in time is no deadline of the client's": {
    scripts: {},
    own: { hosts: [0], stuck: true, waitMs: 300 },
    rank: 0,
    code: "ExpertUnavailable",
    message: /had no host for 0.3 s/,
  },
  "when nobody can load it the frame says why": {
    scripts: {},
    own: { hosts: [0], failure: damaged("CorruptShard"), waitMs: 300 },
    rank: 0,
    code: "ExpertUnavailable",
    message: /no host for 0.3 s: the store is damaged/,
  },
  "a frame that is rejected is sent to nobody else": {
    scripts: { 1: () => ({ type: "rejected", reason: "layer: 9 of 2" }), 2: never },
    own: { hosts: [1, 2] },
    code: "FrameRejected",
    message: /rank 1 rejected a frame: layer: 9 of 2/,
  },
  "nor one with an answer of another length": {
    scripts: { 1: () => new AppError("the host answered 1 bytes", { code: "InvalidReply" }), 2: never },
    own: { hosts: [1, 2] },
    code: "InvalidReply",
  },
  "an engine that has ended fails the frame at once": {
    scripts: { 2: never },
    own: { hosts: [0], failure: new AppError("its thread ended", { code: "EngineStopped" }) },
    rank: 0,
    code: "EngineStopped",
  },
};
for (const [name, { scripts, own, rank, code, message = /./ }] of Object.entries(failures)) {
  test(name, async () => {
    const startedAt = performance.now();
    await assert.rejects(rankZero(scripts, own).dispatch(rank), { code, message });
    assert.ok(performance.now() - startedAt < 2_500);
  });
}

test("a busy host is asked again as a host after the time that it named, and nobody else loads its expert", async () => {
  const times: number[] = [];
  const answer: Script = (asked) => {
    times.push(performance.now());
    return times.length < 3 ? busy(60) : rowsFor(asked);
  };
  const { dispatch, asked } = rankZero({ 1: answer, 2: never });
  assert.deepEqual(await dispatch(), sevens);
  assert.deepEqual(asked, ["1", "1", "1"]);
  for (const [i, at] of times.entries()) if (i > 0) assert.ok(at - (times[i - 1] as number) >= 59, `${times}`);
});

test("when a host stays busy another rank loads its expert", async () => {
  const { dispatch, asked } = rankZero({ 1: () => busy(5), 2: rowsFor });
  await dispatch();
  assert.deepEqual(asked.slice(0, 3), ["1", "1", "1"]);
  assert.match(asked[3] ?? "", /^[02] on demand$/);
});

test("the rank that loaded a lost host's expert goes on when the host is back with nothing, until it lets the expert go", async () => {
  let kept = true;
  const other: Script = (asked) => (kept || asked.onDemand ? rowsFor(asked) : gone);
  const { dispatch, asked, down } = rankZero({ 1: unlessOnDemand(gone), 2: other }, { room: false });
  down.add(1);
  await dispatch();
  down.delete(1);
  await dispatch();
  assert.deepEqual(
    asked.filter((who) => who !== "0 on demand"),
    ["2 on demand", "1", "2"],
  );
  kept = false;
  await dispatch();
  assert.deepEqual(asked.slice(-3), ["1", "2", "1 on demand"]);
});

test("the main thread hears of ranks with a newer plan, and of every retry", async () => {
  const { dispatch, connections } = rankZero({ 1: () => ({ type: "notHosted", epoch: 9, experts: [0] }), 2: rowsFor }, { hosts: [1, 2] });
  await dispatch();
  const counts = connections.counters.take(0, 0);
  assert.deepEqual([counts?.newer, counts?.sent.retries, counts?.sent.results.not_hosted], [[1], 1, 1]);
});

test("after a failure frames under way end when their connections do, and later ones at once", { timeout: 5_000 }, async () => {
  const { outbound, dispatch } = rankZero({ 1: () => late });
  const stopped = new AppError("engine: closing", { code: "EngineStopped" });
  const underWay = assert.rejects(dispatch(), { code: "EngineStopped" });
  outbound.fail(stopped);
  await underWay;
  await assert.rejects(dispatch(), { code: "EngineStopped" });
});
