// Ranks that stop behind a stand-in, or as one, wait for their gateways, for a bounded time; others do not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, now, pod } from "../../test/kit/deployment/deployment.ts";
import type { Step } from "./core/pod-actions.ts";
import type { Snapshot } from "./core/snapshot.ts";
import { GatewaysFirst, gatewaysMs } from "./gateways-first.ts";

const stop = { type: "mark", pod: pod(0), reason: "Stop", why: "no ranks are wanted" } as const;
const lost = { type: "delete", pod: pod(1), force: true, reason: "NodeLost", why: "gone" } as const;
const step: Step = { actions: [stop, lost], blocked: undefined, note: "", failures: [], againInMs: undefined };
const of = (spec: object, metadata: object = {}): Snapshot => ({ now, deployment: deployment(spec, {}, metadata) }) as Snapshot;
const child = { labels: { "enodia.dev/stands-in-for": "moe" } };

test("a stand-in that stops keeps its ranks while its gateways are there, and no longer than their time", () => {
  let at = 0;
  const first = new GatewaysFirst(() => at);
  const look = (gateways: number) => first.held(step, of({ suspend: true }, child), gateways);
  assert.deepEqual([look(1).actions, look(1).againInMs], [[lost], gatewaysMs]);
  at = gatewaysMs - 1;
  assert.deepEqual([look(1).actions, look(1).againInMs], [[lost], 1]);
  assert.deepEqual(look(0), step, "the last gateway has gone");
  assert.equal(look(1).againInMs, gatewaysMs, "another stop has its own time");
  at += gatewaysMs;
  assert.deepEqual(look(1), step, "its time is over");
});

test("a deployment behind a stand-in stops in that order; one that nobody stands in for stops at once", () => {
  const first = new GatewaysFirst(() => 0);
  const behind = { ...of({ suspend: true }), standIn: { front: "StandIn" } as Snapshot["standIn"] };
  assert.deepEqual(first.held(step, behind, 1).actions, [lost]);
  assert.deepEqual(first.held(step, of({ suspend: true }), 1), step);
  assert.deepEqual(first.held(step, of({}, child), 1), step);
});
