// Heartbeats against hosts that answer or fall silent, with the wire and the time replaced: silence is known within 2 s, a stall of this
// process is none, and in a large world a heartbeat begins with the first frame and ends when none comes.
import assert from "node:assert/strict";
import { after, type TestContext, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { grpcNetwork } from "../net/grpc.ts";
import type { HeartbeatCall, HeartbeatEvents } from "../net/heartbeat.ts";
import type { Member } from "../net/mapping.ts";
import { fixedTls } from "../net/tls.ts";
import { silentLog } from "../observe/log.ts";
import { Heartbeats } from "./heartbeats.ts";
import { Peers } from "./peers.ts";

const tls = fixedTls({ cert: Buffer.of(1), key: Buffer.of(2), ca: Buffer.of(3) });
const port = 9_441;

class ScriptedPeers extends Peers {
  readonly silent = new Set<number>();
  readonly malformed = new Set<number>();
  readonly refusing = new Set<number>();
  readonly calls: { readonly rank: number; readonly events: HeartbeatEvents; closed: boolean }[] = [];

  override heartbeat({ rank }: Member, events: HeartbeatEvents): HeartbeatCall {
    if (this.malformed.has(rank)) throw new AppError("address: no port", { code: "InvalidPlan" });
    const call = { rank, events, closed: false };
    this.calls.push(call);
    const ping = () => void (this.silent.has(rank) || call.closed || events.answered(port));
    queueMicrotask(this.refusing.has(rank) ? () => events.closed(new AppError("refused", { code: "Unavailable" })) : ping);
    const close = () => {
      call.closed = true;
    };
    return { ping, close };
  }
}

function ranks(t: TestContext, count: number, idleMs?: number) {
  let now = 1_000;
  t.mock.timers.enable({ apis: ["setInterval"] });
  t.mock.method(performance, "now", () => now);
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const peers = new ScriptedPeers({ self, namespace: "n", name: "m", tls, network: grpcNetwork, log: silentLog });
  const events: string[] = [];
  const ports = new Map<number, number | undefined>();
  const heartbeats = new Heartbeats({
    peers,
    onEnginePort: (rank, at) => void ports.set(rank, at),
    onStream: (event) => void events.push(event),
    idleMs,
  });
  t.after(() => heartbeats.close());
  const memberOf = (_: unknown, i: number): Member => {
    return { rank: i + 1, podName: `p${i + 1}`, podUid: `u${i + 1}`, bootId: "b", address: `a${i + 1}:1`, state: "active" };
  };
  peers.apply({ version: 1, members: Array.from({ length: count }, memberOf) });
  const pass = async (ms: number, stepMs = 50): Promise<void> => {
    for (const end = now + ms; now < end; ) {
      now += stepMs;
      t.mock.timers.tick(stepMs);
      await Promise.resolve();
    }
  };
  /** The process stands still: its timers fire once, late. */
  const stall = async (ms: number): Promise<void> => {
    now += ms;
    t.mock.timers.tick(250);
    await Promise.resolve();
  };
  return { peers, heartbeats, events, ports, pass, stall };
}
const alive = setInterval(() => {}, 1_000);
after(() => clearInterval(alive));

test("ranks of a small world are all watched, and their engines' ports are known", async (t) => {
  const { heartbeats, ports, pass, peers } = ranks(t, 2);
  await pass(10_000);
  assert.deepEqual([heartbeats.open, peers.calls.length], [2, 2]);
  assert.deepEqual([...ports.values()], [port, port]);
});

test("a host that falls silent is suspect within 2 s, and trusted again by its first answer", async (t) => {
  const { peers, ports, pass } = ranks(t, 1);
  await pass(5_000);
  peers.silent.add(1);
  await pass(1_000);
  assert.equal(peers.isSuspect(1), false);
  await pass(1_000);
  assert.deepEqual([peers.isSuspect(1), ports.get(1)], [true, undefined]);
  peers.silent.delete(1);
  await pass(2_500);
  assert.deepEqual([peers.isSuspect(1), ports.get(1)], [false, port]);
});

test("a connection that ends makes its rank suspect at once, and is made anew", async (t) => {
  const { peers, pass } = ranks(t, 1);
  await pass(1_000);
  peers.silent.add(1);
  peers.calls[0]?.events.closed(new AppError("reset", { code: "Unavailable" }));
  assert.ok(peers.isSuspect(1));
  await pass(500);
  assert.equal(peers.calls.length, 2);
});

test("a rank that nobody answers for is tried less and less often, and at once where it is a member anew", async (t) => {
  const { peers, heartbeats, pass } = ranks(t, 1);
  await pass(1_000);
  peers.refusing.add(1);
  peers.calls[0]?.events.closed(new AppError("reset", { code: "Unavailable" }));
  await pass(20_000);
  const tried = peers.calls.length;
  assert.ok(tried >= 8 && tried <= 14, `${tried} calls`);
  peers.refusing.clear();
  const { version, members } = peers.membership;
  peers.apply({ version: version + 1, members: members.map((member) => ({ ...member })) });
  await pass(300);
  assert.deepEqual([peers.calls.length, peers.isSuspect(1)], [tried + 1, false]);
  peers.calls.at(-1)?.events.closed(new AppError("reset", { code: "Unavailable" }));
  await pass(500);
  assert.equal(peers.calls.length, tried + 2, "an answer ends the pauses");
  peers.refusing.add(1);
  peers.calls.at(-1)?.events.closed(new AppError("reset", { code: "Unavailable" }));
  await pass(20_000);
  peers.refusing.clear();
  const before = peers.calls.length;
  heartbeats.called(1);
  await pass(300);
  assert.deepEqual([peers.calls.length, peers.isSuspect(1)], [before + 1, false], "a call of the rank ends them too");
});

test("what this process did not hear while it stood still is no silence of the host", async (t) => {
  const { peers, pass, stall } = ranks(t, 1);
  await pass(1_000);
  await stall(9_000);
  await pass(250);
  assert.equal(peers.isSuspect(1), false);
});

test("a connection that is slow to be made is given to the attempts after it", async (t) => {
  const { peers, pass } = ranks(t, 1);
  peers.silent.add(1);
  await pass(5_000);
  assert.ok(peers.isSuspect(1));
  assert.equal(peers.calls.length, 1);
  await pass(5_000);
  assert.ok(peers.calls.length > 1, "and not for ever");
});

test("a rank that has moved is watched where it is now", async (t) => {
  const { peers, pass } = ranks(t, 1);
  await pass(1_000);
  const [member] = peers.membership.members as [Member];
  peers.apply({ version: 2, members: [{ ...member, podUid: "u9", address: "a9:1" }] });
  await pass(500);
  assert.deepEqual([peers.calls.length, peers.calls[0]?.closed], [2, true]);
});

test("in a large world the first frame begins a heartbeat, and it ends when none comes", async (t) => {
  const idleMs = 300;
  const { heartbeats, events, ports, pass, peers } = ranks(t, 3, idleMs);
  await pass(4 * idleMs);
  assert.equal(heartbeats.open, 0);
  heartbeats.used([1, 2]);
  for (let i = 0; i < 6; i++) {
    await pass(idleMs / 2);
    heartbeats.used([1]);
  }
  assert.equal(heartbeats.open, 1);
  assert.deepEqual(
    [...ports],
    [
      [1, port],
      [2, undefined],
    ],
  );
  await pass(2 * idleMs);
  assert.deepEqual(events, ["opened", "opened", "idle", "idle"]);
  assert.deepEqual(
    [1, 2, 3].filter((rank) => peers.isSuspect(rank)),
    [],
  );
});

test("a rank with a malformed address is suspect, and the others are watched", async (t) => {
  const { peers, pass, heartbeats } = ranks(t, 2);
  peers.malformed.add(1);
  await pass(1_000);
  assert.deepEqual([peers.isSuspect(1), peers.isSuspect(2), heartbeats.open], [true, false, 1]);
});

test("no heartbeat begins after the end", async (t) => {
  const { peers, heartbeats } = ranks(t, 1);
  heartbeats.close();
  heartbeats.used([1]);
  assert.deepEqual([heartbeats.open, peers.calls.length], [0, 0]);
});
