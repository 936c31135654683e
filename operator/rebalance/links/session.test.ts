// The session with one pod, on a client that is played here: every ping tells the log level, so that a pod that starts has it at once.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { DescribeReplySchema, type WatchPush, WatchStatusSchema } from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Network } from "../../../runtime/net/grpc.ts";
import { ManualClock } from "../../../test/kit/manual-clock.ts";
import type { LinkTarget } from "../ports.ts";
import { ClockOffset } from "./described.ts";
import { Semaphore } from "./links.ts";
import { Quota } from "./quota.ts";
import { Session } from "./session.ts";

const quota = new Quota({ now: () => 0, onOver: () => {} });

test("a pod is told the operator's log level when its stream opens, and with every ping", async () => {
  const pushed: WatchPush[] = [];
  const watch = () =>
    Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (push, _, done) => done(void pushed.push(push)) }), {
      cancel: () => {},
    });
  const network = { connect: () => ({ watch, close: () => {}, receivedBytes: () => 0 }) } as unknown as Pick<Network, "connect">;
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "gateway", deploymentUid: "d", kind: "gateway", podUid: "g" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota },
  };
  const clock = new ManualClock();
  const session = new Session(target, { clock, network, connecting: new Semaphore(1), logLevel: "debug" });
  await clock.advance(1_000);
  assert.deepEqual(
    pushed.map(({ push, logLevel }) => [push.case, logLevel]),
    [
      ["ping", "debug"],
      ["ping", "debug"],
    ],
  );
  session.close();
});

test("a gateway that is well is pinged less and may be silent while its connection shows signs, and not longer than that", async () => {
  const pushed: WatchPush[] = [];
  const stream = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (push, _, done) => done(void pushed.push(push)) }), {
    cancel: () => {},
  });
  let bytes = 0;
  const network = { connect: () => ({ watch: () => stream, close: () => {}, receivedBytes: () => bytes }) };
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "gateway", deploymentUid: "d", kind: "gateway", podUid: "g" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota },
  };
  const clock = new ManualClock();
  const session = new Session(target, { clock, network: network as unknown as Pick<Network, "connect">, connecting: new Semaphore(1) });
  const say = (more: object): void => void stream.emit("data", create(WatchStatusSchema, Object.assign({ ready: true }, more)));
  const second = async (speaks: boolean): Promise<void> => {
    bytes += 1;
    if (speaks) say({});
    await clock.advance(1_000);
  };
  for (let i = 0; i < 8; i++) await second(true);
  const allowed = pushed.map(({ suppressMs }) => suppressMs);
  assert.deepEqual(allowed.slice(0, 7), Array(7).fill(0), "the clocks are compared first");
  const before = pushed.length;
  for (let i = 0; i < 8; i++) await second(false);
  assert.ok(pushed.length - before <= 3, `${pushed.length - before} pings in 8 s`);
  assert.ok((pushed.at(-1)?.suppressMs ?? 0) > 8_000);
  assert.equal(session.downSince, undefined, "it was silent for 8 s, and its connection was not");
  await clock.advance(1_500);
  assert.equal(session.downSince, undefined);
  await clock.advance(500);
  assert.ok(session.downSince !== undefined, "nothing came for 3 s");
  session.close();
});

test("a gateway that is not well is heard as often as ever", async () => {
  const pushed: WatchPush[] = [];
  const stream = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (push, _, done) => done(void pushed.push(push)) }), {
    cancel: () => {},
  });
  let bytes = 0;
  const network = { connect: () => ({ watch: () => stream, close: () => {}, receivedBytes: () => ++bytes }) };
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "gateway", deploymentUid: "d", kind: "gateway", podUid: "g" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota },
  };
  const clock = new ManualClock();
  const session = new Session(target, { clock, network: network as unknown as Pick<Network, "connect">, connecting: new Semaphore(1) });
  for (let i = 0; i < 12; i++) {
    stream.emit("data", create(WatchStatusSchema, { ready: true, draining: true }));
    await clock.advance(1_000);
  }
  assert.deepEqual(new Set(pushed.map(({ suppressMs }) => suppressMs)), new Set([0]));
  assert.equal(session.downSince, undefined);
  await clock.advance(4_000);
  assert.ok(session.downSince !== undefined, "bytes alone are no sign of it");
  session.close();
});

test("a pod that has to wait for its quota is not silent while its connection shows signs, and dead when it does not", async () => {
  const stream = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (_push, _, done) => done() }), { cancel: () => {} });
  let bytes = 0;
  const network = { connect: () => ({ watch: () => stream, close: () => {}, receivedBytes: () => bytes }) };
  const share = () => ({ mayRead: () => false, admit: () => {}, delayed: () => {} });
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "gateway", deploymentUid: "d", kind: "gateway", podUid: "g" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota: { share } },
  };
  const clock = new ManualClock();
  const session = new Session(target, { clock, network: network as unknown as Pick<Network, "connect">, connecting: new Semaphore(1) });
  stream.emit("data", create(WatchStatusSchema, { ready: false }));
  for (let second = 0; second < 20; second++) {
    bytes += 17;
    await clock.advance(1_000);
    assert.equal(session.downSince, undefined);
  }
  await clock.advance(4_000);
  assert.ok(session.downSince !== undefined, "no ping was answered for 4 s");
  session.close();
});

test("calls have deadlines by the clock that gRPC reckons with, whatever the operator's own says", async () => {
  const deadlines: number[] = [];
  const describe = async (_: unknown, { deadline }: { deadline: number }) => {
    deadlines.push(deadline);
    throw new Error("away");
  };
  const network = { connect: () => ({ describe, close: () => {} }) } as unknown as Pick<Network, "connect">;
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "rank-0", deploymentUid: "d", kind: "worker", podUid: "w" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota },
  };
  const clock = new ManualClock();
  const behind = { now: () => clock.now(), after: clock.after.bind(clock), deadlineIn: (ms: number) => 1_000_000_000 + ms };
  const session = new Session(target, { clock: behind, network, connecting: new Semaphore(1) });
  await clock.advance(100);
  assert.deepEqual(deadlines[0], 1_000_005_000);
  session.close();
});

test("who connects has a turn until the pod answers or does not; those that wait were not tried, and may be closed", async () => {
  const calls: (() => void)[] = [];
  const describe = () => new Promise((_, reject) => calls.push(() => reject(new Error("away"))));
  const network = { connect: () => ({ describe, close: () => {} }) } as unknown as Pick<Network, "connect">;
  const [clock, connecting] = [new ManualClock(), new Semaphore(1)];
  const open = (podUid: string): Session => {
    const place = { address: "10.0.0.1:9440", serverName: "rank-0", deploymentUid: "d", kind: "worker" as const, podUid };
    return new Session(Object.assign(place, { identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota }), {
      clock,
      network,
      connecting,
    });
  };
  const [first, second, third] = [open("a"), open("b"), open("c")];
  assert.equal(calls.length, 1);
  assert.deepEqual(
    [first, second, third].map(({ triedAt }) => triedAt),
    [clock.now(), Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
  );
  second.close();
  calls[0]?.();
  await clock.advance(100);
  assert.equal(calls.length, 2, "the turn went on, past the one that was closed");
  assert.ok(third.triedAt < Number.POSITIVE_INFINITY);
  third.close();
  await clock.advance(1_000);
  assert.equal(calls.length, 3, "the first tries again");
  first.close();
});

/** A worker's session whose pod describes and reports what the test says. */
function workerSession(description: object, statuses: readonly object[]) {
  const clock = new ManualClock();
  let asked = 0;
  const describe = async () => {
    asked += 1;
    const self = { podUid: "w", bootId: "b" };
    return create(DescribeReplySchema, Object.assign({ self, layers: 2, experts: 4, storedBytes: [1n], residentBytes: [1n] }, description));
  };
  const watch = () => {
    const stream = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (_push, _, done) => done() }), { cancel: () => {} });
    for (const status of statuses) clock.after(1, () => stream.emit("data", create(WatchStatusSchema, status)));
    return stream;
  };
  const network = { connect: () => ({ describe, watch, close: () => {}, receivedBytes: () => 0 }) } as unknown as Pick<Network, "connect">;
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "rank-0", deploymentUid: "d", kind: "worker", podUid: "w" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {}, onLoad: () => {}, quota },
  };
  const session = new Session(target, { clock, network, connecting: new Semaphore(1) });
  return { session, clock, asked: () => asked };
}

const refused: Record<string, { description?: object; status?: object; want: RegExp }> = {
  "is of another pod, whatever cells it claims": {
    description: { self: { podUid: "other" }, layers: 1024, experts: 4096 },
    want: /^pod {2}answers with uid other, expected w$/,
  },
  "has more cells than can be planned": { description: { layers: 1024, experts: 65 }, want: /1024 layers of 65 experts is out of bounds/ },
  "has a name that fills a condition": { description: { device: "x".repeat(254) }, want: /describe.device: 254 characters, at most 253/ },
  "reports layers that its model does not have": { status: { hosted: Array(3).fill({}) }, want: /status.hosted: 3 layers/ },
  "reports one layer too far": { status: { hosted: [{ layer: 2, experts: [0] }] }, want: /1 experts of layer 2, which has 0/ },
  "reports an expert that its layer does not have": { status: { hosted: [{ layer: 1, experts: [4] }] }, want: /layer 1, which has 4/ },
  "reports an expert twice": { status: { hosted: [{ layer: 1, experts: [0, 1, 2, 3, 3] }] }, want: /5 experts of layer 1/ },
  "reports an epoch that is no number here": { status: { epoch: 2n ** 63n }, want: /^status.epoch: / },
  "answers a ping from before all time": { status: { clock: { unixMs: -1n } }, want: /^status.clock.unixMs: / },
};
for (const [sentence, { description = {}, status, want }] of Object.entries(refused)) {
  test(`a rank that ${sentence} is refused, takes nothing else down, and is asked again after a pause`, async () => {
    const { session, clock, asked } = workerSession(description, status ? [status] : []);
    await clock.advance(10);
    assert.match(session.lastError, want);
    assert.ok(session.downSince !== undefined);
    assert.deepEqual([...session.hosted], []);
    const before = asked();
    await clock.advance(4_900);
    assert.equal(asked(), before);
    await clock.advance(200);
    assert.equal(asked(), before + 1);
    session.close();
  });
}

test("the quickest answer says how far a clock is ahead, and a clock that was set is followed at once", () => {
  const offset = new ClockOffset();
  assert.equal(offset.ms, undefined);
  offset.answered(1_000, 3_601_500, 3_000);
  assert.equal(offset.ms, 3_599_500, "a slow answer is better than none");
  offset.answered(4_000, 3_604_005, 4_010);
  assert.equal(offset.ms, 3_600_000);
  offset.answered(5_000, 3_605_150, 5_200);
  assert.equal(offset.ms, 3_600_000, "what a slower one says is within its round trip");
  offset.answered(6_000, 6_100, 6_200);
  assert.equal(offset.ms, 0);
  for (let i = 0; i < 8; i++) offset.answered(7_000 + i, 7_180 + i, 7_300 + i);
  assert.equal(offset.ms, 30, "the last 8 answers count");
  offset.forget();
  assert.equal(offset.ms, undefined);
});

test("an answer from before its ping, or one that took longer than a stream may be silent, says nothing", () => {
  const offset = new ClockOffset();
  offset.answered(2_000, 1, 1_000);
  offset.answered(1_000, 1, 5_001);
  assert.equal(offset.ms, undefined);
});
