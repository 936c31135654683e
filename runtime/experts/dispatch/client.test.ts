// Frames to hosts that are busy, or that answer pings and nothing else. The wire is replaced by a script per rank.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { LayerPlacement } from "../../../crds/plan.ts";
import { until } from "../../../test/kit/ranks/ranks.ts";
import { type DispatchFrame, type DispatchReply, DispatchReplySchema } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { grpcNetwork } from "../../net/grpc.ts";
import { create } from "../../net/service.ts";
import type { TlsSource } from "../../net/tls.ts";
import { silentLog } from "../../observe/log.ts";
import { createTracing } from "../../observe/trace.ts";
import { notHosted } from "../../placement/frames/not-hosted.ts";
import { type PeerClients, Peers } from "../peers.ts";
import { DispatchClient } from "./client.ts";

const hidden = 4;
type Answer = DispatchReply["result"] | undefined;
type Script = (frame: DispatchFrame) => Answer;

/** A stream whose host answers each frame by the script; pings always. Undefined: no answer. */
class ScriptedStream extends EventEmitter {
  readonly #script: Script;
  readonly #onPing: () => void;
  constructor(script: Script, onPing: () => void) {
    super();
    this.#script = script;
    this.#onPing = onPing;
  }
  write(frame: DispatchFrame): boolean {
    const ping = frame.pairExperts.length === 0;
    if (ping) this.#onPing();
    const result: Answer = ping ? { case: "rows", value: new Uint8Array(0) } : this.#script(frame);
    if (result) setImmediate(() => this.emit("data", create(DispatchReplySchema, { seq: frame.seq, result })));
    return true;
  }
  cancel(): void {}
}

class ScriptedPeers extends Peers {
  readonly scripts = new Map<number, Script>();
  pings = 0;
  override clients(rank: number): PeerClients | undefined {
    const script = this.scripts.get(rank);
    const dispatch = () => new ScriptedStream(script as Script, () => this.pings++);
    return script && ({ experts: { dispatch } } as unknown as PeerClients);
  }
}

const rowsFor = (frame: DispatchFrame): Answer => ({
  case: "rows",
  value: new Uint8Array(new Float32Array(frame.pairExperts.length * hidden).fill(7).buffer),
});
const busy = (retryAfterMs: number): Answer => ({ case: "busy", value: { $typeName: "enodia.runtime.v1.Busy", retryAfterMs } });
const clients: DispatchClient[] = [];
after(() => {
  for (const client of clients) client.close();
});

interface Own {
  readonly waitMs?: number;
  /** Hosts of the one expert. */
  readonly hosts?: number[];
  /** True when this rank has it in memory, and room for it. */
  readonly here?: boolean;
  readonly room?: boolean;
  /** The error with which a load here fails. */
  readonly failure?: AppError;
}

async function rankZero(scripts: Record<number, Script>, { waitMs, hosts = [1], here = false, room = true, failure }: Own = {}) {
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const peers = new ScriptedPeers({ self, namespace: "n", name: "m", tls: {} as TlsSource, network: grpcNetwork, log: silentLog });
  const members = Object.entries(scripts).map(([rank, script]) => {
    peers.scripts.set(Number(rank), script);
    return { rank: Number(rank), podName: `p${rank}`, podUid: `u${rank}`, bootId: "b", address: "a", state: "active" as const };
  });
  peers.apply({ version: 1, members });
  const own: number[] = [];
  const client = new DispatchClient({
    ...{ peers, hidden, tracing: await createTracing({ service: "worker" }), onNewerEpoch: () => {}, onEnginePort: () => {} },
    runner: {
      run: async ({ origin }, work) => {
        assert.equal(origin, "local");
        if (!here) throw notHosted([0], "not in memory");
        return new Float32Array(work.pairExperts.length * hidden).fill(7);
      },
      runOnDemand: async ({ origin }, work) => {
        assert.equal(origin, "local");
        own.push(...work.pairExperts);
        if (failure) throw failure;
        if (!room) throw notHosted([0], "memory is full");
        return new Float32Array(work.pairExperts.length * hidden).fill(7);
      },
    },
    placement: (): LayerPlacement[] => [{ layer: 0, epoch: 1, hosts: [hosts], weights: [[1000]] }],
    report: { frame: () => {}, bytes: () => {}, retry: () => {}, stall: () => {} },
    ...(waitMs === undefined ? {} : { waitMs }),
  });
  clients.push(client);
  return { client, peers, own };
}
const frame = (rank = 1) => ({
  ...{ layer: 0, epoch: 1, rank, phase: "decode" as const, rows: new Float32Array(hidden) },
  ...{ pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(0) },
});

test("a busy host is asked again as a host after the time that it named, and nobody else loads its expert", async () => {
  const asked: { at: number; onDemand: boolean }[] = [];
  const { client, own } = await rankZero({
    1: (got) => {
      asked.push({ at: performance.now(), onDemand: got.onDemand });
      return asked.length < 3 ? busy(60) : rowsFor(got);
    },
    2: () => assert.fail("a rank that does not host it was asked"),
  });
  assert.deepEqual([...(await client.dispatch(frame()))], [7, 7, 7, 7]);
  assert.deepEqual(
    asked.map(({ onDemand }) => onDemand),
    [false, false, false],
  );
  for (const [i, { at }] of asked.entries()) if (i > 0) assert.ok(at - asked[i - 1]!.at >= 59, `asked after ${at - asked[i - 1]!.at} ms`);
  assert.deepEqual(own, []);
});

test("when a host stays busy another rank loads its expert", async () => {
  const asked: number[] = [];
  const onDemand: boolean[] = [];
  const { client, own } = await rankZero({
    1: () => {
      asked.push(1);
      return busy(5);
    },
    2: (got) => {
      onDemand.push(got.onDemand);
      return rowsFor(got);
    },
  });
  await client.dispatch(frame());
  assert.equal(asked.length, 3);
  assert.ok((onDemand.length === 1 && onDemand[0] === true) || own.length === 1, "the successor is rank 2 or this one");
});

test("a host that shows signs of life and never answers a frame costs the frame its time, and no more", async () => {
  const { client, peers } = await rankZero({ 1: () => undefined }, { waitMs: 700 });
  const startedAt = performance.now();
  await assert.rejects(client.dispatch(frame()), { code: "ExpertUnavailable" });
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs >= 600 && tookMs < 2_500, `${tookMs} ms`);
  assert.equal(peers.isSuspect(1), false, "its process answers");
  assert.equal(client.inFlight, 0);
});

test("what is planned here and not in memory is asked of another host, and loaded only when there is none", async () => {
  const other = await rankZero({ 1: rowsFor }, { hosts: [0, 1] });
  assert.deepEqual([...(await other.client.dispatch(frame(0)))], [7, 7, 7, 7]);
  assert.deepEqual(other.own, []);
  const alone = await rankZero({ 1: () => assert.fail("rank 1 does not host it") }, { hosts: [0] });
  await alone.client.dispatch(frame(0));
  assert.deepEqual(alone.own, [0]);
});

test("a host that says NOT_HOSTED is not followed by a load here while a third host has it", async () => {
  const gone: Answer = { case: "notHosted", value: { $typeName: "enodia.runtime.v1.NotHosted", layerEpoch: 1n, experts: [0] } };
  const { client, own } = await rankZero(
    { 1: () => gone, 2: (got) => (got.onDemand ? assert.fail("it hosts it") : rowsFor(got)) },
    { hosts: [0, 1, 2] },
  );
  await client.dispatch(frame(1));
  assert.deepEqual(own, []);
});

test("the rank that stood in for a lost host goes on when the host is back with nothing, until it lets the expert go", async () => {
  const gone: Answer = { case: "notHosted", value: { $typeName: "enodia.runtime.v1.NotHosted", layerEpoch: 1n, experts: [0] } };
  const asked: string[] = [];
  let kept = true;
  const script =
    (rank: number, answer: (got: DispatchFrame) => Answer): Script =>
    (got) => {
      asked.push(`${rank}${got.onDemand ? " on demand" : ""}`);
      return answer(got);
    };
  const host = script(1, (got) => (got.onDemand ? rowsFor(got) : gone));
  const other = script(2, (got) => (kept || got.onDemand ? rowsFor(got) : gone));
  const { client, peers } = await rankZero({ 1: host, 2: other }, { room: false });
  peers.suspect(1, new AppError("rank 1 said nothing", { code: "Silent" }));
  await client.dispatch(frame());
  peers.clear(1);
  await client.dispatch(frame());
  assert.deepEqual(asked, ["2 on demand", "1", "2"]);
  kept = false;
  await client.dispatch(frame());
  assert.deepEqual(asked.slice(3), ["1", "2", "1 on demand"]);
});

test("without room here the next rank loads an expert that nobody holds", async () => {
  const asked: boolean[] = [];
  const other: Script = (got) => {
    asked.push(got.onDemand);
    return rowsFor(got);
  };
  const { client, own } = await rankZero({ 2: other, 3: other }, { hosts: [0], room: false });
  await client.dispatch(frame(0));
  assert.deepEqual(own, [0], "asked once");
  assert.deepEqual(asked, [true]);
});

test("where the store here is damaged or stuck another rank loads the expert; when none can, the frame says why", async () => {
  for (const code of ["CorruptShard", "Unavailable"]) {
    const failure = new AppError("the store is damaged", { code });
    const { client, own } = await rankZero({ 2: rowsFor }, { hosts: [0], failure });
    assert.deepEqual([...(await client.dispatch(frame(0)))], [7, 7, 7, 7]);
    assert.deepEqual(own, [0]);
    const alone = await rankZero({}, { hosts: [0], failure, waitMs: 300 });
    await assert.rejects(alone.client.dispatch(frame(0)), {
      code: "ExpertUnavailable",
      message: /no host for 0.3 s: the store is damaged/,
    });
  }
});

test("an engine that has ended fails the frame at once", async () => {
  const failure = new AppError("its thread ended", { code: "EngineStopped" });
  const { client } = await rankZero({ 2: () => assert.fail("asked elsewhere") }, { hosts: [0], failure });
  await assert.rejects(client.dispatch(frame(0)), { code: "EngineStopped" });
});

test("a suspect is trusted again by the first answer of its new stream", async () => {
  const { peers } = await rankZero({ 1: rowsFor });
  peers.suspect(1, new AppError("rank 1 said nothing", { code: "Silent" }));
  let pingsUntilClear: number | undefined;
  peers.onChange(() => {
    pingsUntilClear ??= peers.pings;
  });
  await until("it is trusted", () => !peers.isSuspect(1));
  assert.equal(pingsUntilClear, 1);
});
