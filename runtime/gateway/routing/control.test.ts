// The gateway's watch: old statuses do not pile up towards an operator that does not read, and its log level is taken over.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { type TestContext, test } from "node:test";
import { toSender } from "../../net/mapping.ts";
import { createLog, type Log, silentLog } from "../../observe/log.ts";
import { type ControlOptions, controlHandlers } from "./control.ts";

const identity = { deploymentUid: "d", rank: -1, podUid: "u", bootId: "b" };

/** A watch whose operator reads nothing. */
function watched(t: TestContext, log: Log, more: Partial<ControlOptions> = {}) {
  const options: ControlOptions = {
    ...{ identity, podName: "gw", namespace: "n", deployment: "m", log, membership: () => undefined, onMembership: () => {} },
    ...{ notReady: () => [], activeRequests: () => 0, draining: () => false },
    ...{ idleMs: () => 0, wantsRanks: () => false, onEnter: () => () => {} },
    ...more,
  };
  const seen = { unread: 0 };
  const call = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: () => void seen.unread++ }), {
    cancelled: false,
    getAuthContext: () => ({ sslPeerCertificate: { subjectaltname: "DNS:operator.m.n.enodia" } }),
  });
  t.after(() => call.destroy());
  controlHandlers(options).watch(call as unknown as Parameters<ReturnType<typeof controlHandlers>["watch"]>[0]);
  const ping = (more: object = {}) =>
    call.emit("data", { sender: toSender({ ...identity, rank: -2 }), push: { case: "ping", value: true }, ...more });
  return { call, seen, ping };
}

test("a watcher that does not read gets the newest status when it reads on, and few old ones", (t) => {
  const { call, seen, ping } = watched(t, silentLog);
  for (let i = 0; i < 100; i++) ping();
  assert.ok(seen.unread > 0 && call.writableLength <= call.writableHighWaterMark, `${call.writableLength} statuses wait`);
});

test("a gateway that may be silent answers no ping without news", (t) => {
  const { seen, ping, call } = watched(t, silentLog);
  const written = () => seen.unread + call.writableLength;
  const first = written();
  ping({ suppressMs: 0 });
  assert.equal(written(), first + 1);
  for (let i = 0; i < 3; i++) ping({ suppressMs: 60_000 });
  assert.equal(written(), first + 1);
  ping({ suppressMs: 0 });
  assert.equal(written(), first + 2);
});

test("a request that came and went since the last status is news: the idle time that was told is over", (t) => {
  let come = () => {};
  const onEnter = (listener: () => void) => {
    come = listener;
    return () => {};
  };
  const { seen, ping, call } = watched(t, silentLog, { onEnter });
  const written = () => seen.unread + call.writableLength;
  ping({ suppressMs: 60_000 });
  const before = written();
  ping({ suppressMs: 60_000 });
  assert.equal(written(), before);
  come();
  assert.equal(written(), before, "no rank is wanted for it, and the next status is soon enough");
  ping({ suppressMs: 60_000 });
  assert.equal(written(), before + 1);
  ping({ suppressMs: 60_000 });
  assert.equal(written(), before + 1, "told once");
});

test("the operator's log level is taken over at once", (t) => {
  const lines: string[] = [];
  const log = createLog({ level: "info", name: "gateway", write: (line) => lines.push(JSON.parse(line).message) });
  const { ping } = watched(t, log);
  log.debug({}, "hidden");
  ping({ logLevel: "debug" });
  log.debug({}, "detail");
  assert.deepEqual(lines, ["log level changed", "detail"]);
});

test("a request that needs ranks is told at once, any other with the next status, and nothing once the watch is over", (t) => {
  const listeners = new Set<() => void>();
  let wantsRanks = false;
  const onEnter = (listener: () => void) => {
    listeners.add(listener);
    return () => void listeners.delete(listener);
  };
  const { call, seen, ping } = watched(t, silentLog, { onEnter, wantsRanks: () => wantsRanks });
  const come = () => listeners.forEach((listener) => void listener());
  const [before] = [seen.unread];
  come();
  assert.equal(seen.unread, before);
  const written = () => seen.unread + call.writableLength;
  for (const wanted of [true, false, true]) {
    wantsRanks = wanted;
    const told = written();
    for (let i = 0; i < 256; i++) come();
    assert.equal(written(), wanted ? told + 1 : told, "once, and then with the timer");
    if (!wanted) ping();
  }
  call.emit("cancelled");
  assert.equal(listeners.size, 0);
});
