// The gateway's watch towards an operator that does not read: old statuses do not pile up.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { silentLog } from "../observe/log.ts";
import { toSender } from "../wire/mapping.ts";
import { type ControlOptions, controlHandlers } from "./control.ts";

const identity = { deploymentUid: "d", rank: -1, podUid: "u", bootId: "b" };

test("a watcher that does not read gets the newest status when it reads on, and few old ones", (t) => {
  const options: ControlOptions = {
    ...{ identity, podName: "gw", namespace: "n", deployment: "m", log: silentLog, membership: () => undefined, onMembership: () => {} },
    ...{ notReady: () => [], activeRequests: () => 0, draining: () => false },
  };
  let unread = 0;
  const call = Object.assign(new Duplex({ objectMode: true, read: () => {}, write: () => void unread++ }), {
    cancelled: false,
    getAuthContext: () => ({ sslPeerCertificate: { subjectaltname: "DNS:operator.m.n.enodia" } }),
  });
  t.after(() => call.destroy());
  controlHandlers(options).watch(call as unknown as Parameters<ReturnType<typeof controlHandlers>["watch"]>[0]);
  for (let i = 0; i < 100; i++) call.emit("data", { sender: toSender({ ...identity, rank: -2 }), push: { case: "ping", value: true } });
  assert.ok(unread > 0 && call.writableLength <= call.writableHighWaterMark, `${call.writableLength} statuses wait`);
});
