// The worker's watch: old statuses do not pile up towards an operator that does not read, and its log level is taken over.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { type TestContext, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { until } from "../../test/kit/processes/process.ts";
import type { WatchStatus } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { toSender } from "../net/mapping.ts";
import { createLog, type Log, silentLog } from "../observe/log.ts";
import { WorkerControl, type WorkerControlOptions } from "./control.ts";

const self = { deploymentUid: "d", rank: 0, podUid: "u", bootId: "b" };

/** A watch whose operator reads nothing. */
function watched(t: TestContext, log: Log) {
  const served = { requests: 7, failed: 1, gaps: 90, gapMicros: 1_000, firstTokens: 7, firstTokenMicros: 2_000 };
  const numbers = { hostedBytes: 0, budgetBytes: 0, fetchedBytes: 0, queuedTokens: 0, activeRequests: 0 };
  const control = new WorkerControl({
    ...{ podName: "p", storedUnitBytes: [], drain: async () => {}, log, clock: () => 0 },
    vitals: () => ({ ...numbers, notReady: [], draining: false, leaving: false, hosted: [], served }),
    caller: () => ({ role: "operator", podName: "o" }),
    peers: { self, membership: { version: 1, members: [] } },
    plan: { state: { epoch: 1, planHash: "" } },
  } as unknown as WorkerControlOptions);
  const seen = { unread: 0 };
  const call = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: () => void seen.unread++ }), { cancelled: false });
  t.after(() => call.destroy());
  control.handlers().watch(call as unknown as Parameters<ReturnType<typeof control.handlers>["watch"]>[0]);
  return { control, call, seen };
}

test("a watcher that does not read gets the newest status when it reads on, and few old ones", (t) => {
  const { control, call, seen } = watched(t, silentLog);
  for (let i = 0; i < 100; i++) control.changed();
  assert.ok(seen.unread > 0 && call.writableLength <= call.writableHighWaterMark, `${call.writableLength} statuses wait`);
});

test("a pod that is allowed to sends no status without news, and answers no ping; news go out by themselves", async (t) => {
  const numbers = { hostedBytes: 0, queuedTokens: 0, activeRequests: 0, draining: false, leaving: false };
  const served = { requests: 7, failed: 1, gaps: 90, gapMicros: 1_000, firstTokens: 7, firstTokenMicros: 2_000 };
  const control = new WorkerControl({
    ...{ podName: "p", storedUnitBytes: [], drain: async () => {}, log: silentLog, clock: () => 5 },
    vitals: () => ({ ...numbers, notReady: [], hosted: [[1]], served }),
    caller: () => ({ role: "operator", podName: "o" }),
    peers: { self, membership: { version: 1, members: [] } },
    plan: { state: { epoch: 1, planHash: "", current: () => undefined } },
  } as unknown as WorkerControlOptions);
  const sent: WatchStatus[] = [];
  const write = (status: WatchStatus, _: unknown, done: () => void): void => {
    sent.push(status);
    done();
  };
  const call = Object.assign(new Duplex({ objectMode: true, read: () => {}, write }), { cancelled: false });
  t.after(() => call.destroy());
  control.handlers().watch(call as unknown as Parameters<ReturnType<typeof control.handlers>["watch"]>[0]);
  const ping = async (suppressMs: number) => {
    call.emit("data", { sender: toSender({ ...self, rank: -2 }), push: { case: "ping", value: true }, sentUnixMs: 1n, suppressMs });
    await turn();
  };
  const news = () => until("a status", () => (sent.length > 0 ? sent.splice(0)[0] : undefined), { timeoutMs: 10_000, everyMs: 20 });
  assert.equal((await news()).activeRequests, 0);
  await ping(0);
  assert.ok((await news()).clock, "a ping is answered");
  await news(); // one goes out by itself
  await ping(60_000);
  sent.splice(0);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  await ping(60_000);
  assert.equal(sent.length, 0);
  numbers.activeRequests = 3;
  assert.equal((await news()).activeRequests, 3);
  control.changed();
  assert.equal(sent.splice(0).length, 1, "whoever has something to say is heard");
  await ping(0);
  await news();
  await news();
});

test("the operator's log level is taken over at once, and one that is not told or not known changes nothing", async (t) => {
  const lines: string[] = [];
  const log = createLog({ level: "info", name: "worker", write: (line) => lines.push(JSON.parse(line).message) });
  const { call } = watched(t, log);
  const ping = async (more: object) => {
    call.emit("data", { sender: toSender({ ...self, rank: -2 }), push: { case: "ping", value: true }, sentUnixMs: 1n, ...more });
    await turn();
    log.debug({}, "detail");
    return lines.splice(0).includes("detail");
  };
  const told: [object, boolean][] = [
    [{}, false],
    [{ logLevel: "debug" }, true],
    [{ logLevel: "" }, true],
    [{ logLevel: "verbose" }, true],
    [{ logLevel: "warn" }, false],
  ];
  for (const [more, detailed] of told) assert.equal(await ping(more), detailed, JSON.stringify(more));
});
