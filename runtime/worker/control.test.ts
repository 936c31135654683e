// The worker's watch towards an operator that does not read: old statuses do not pile up.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { silentLog } from "../observe/log.ts";
import { WorkerControl, type WorkerControlOptions } from "./control.ts";

test("a watcher that does not read gets the newest status when it reads on, and few old ones", (t) => {
  const self = { deploymentUid: "d", rank: 0, podUid: "u", bootId: "b" };
  const numbers = { hostedBytes: 0, budgetBytes: 0, fetchedBytes: 0, queuedTokens: 0, activeRequests: 0 };
  const control = new WorkerControl({
    ...{ podName: "p", storedUnitBytes: [], drain: async () => {}, log: silentLog },
    vitals: () => ({ ...numbers, notReady: [], draining: false, leaving: false, hosted: [] }),
    caller: () => ({ role: "operator", podName: "o" }),
    peers: { self, membership: { version: 1, members: [] } },
    plan: { state: { epoch: 1, planHash: "" } },
  } as unknown as WorkerControlOptions);
  let unread = 0;
  const call = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: () => void unread++ }), { cancelled: false });
  t.after(() => call.destroy());
  control.handlers().watch(call as unknown as Parameters<ReturnType<typeof control.handlers>["watch"]>[0]);
  for (let i = 0; i < 100; i++) control.changed();
  assert.ok(unread > 0 && call.writableLength <= call.writableHighWaterMark, `${call.writableLength} statuses wait`);
});
