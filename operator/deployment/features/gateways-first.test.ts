// Ranks that stop behind a green deployment, or as one, wait for their gateways, for a bounded time; others do not.

import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, now, pod } from "../../../test/kit/deployment/deployment.ts";
import type { Snapshot } from "../core/snapshot.ts";
import type { Step } from "./pod-actions.ts";
import { afterGateways, gatewaysMs } from "./pod-repair.ts";

const stop = { type: "mark", pod: pod(0), reason: "Stop", why: "no ranks are wanted" } as const;
const lost = { type: "delete", pod: pod(1), force: true, reason: "NodeLost", why: "gone" } as const;
const step: Step = { actions: [stop, lost], blocked: undefined, note: "", failures: [], againInMs: undefined };
const of = (spec: object, metadata: object = {}): Snapshot => ({ now, deployment: deployment(spec, {}, metadata) }) as Snapshot;
const child = of({ suspend: true }, { labels: { "enodia.dev/green-of": "moe" } });
const behind = { ...of({ suspend: true }), green: { front: "Green" } as Snapshot["green"] };
const look = (snapshot: Snapshot, gateways: number, nowMs = 0, sinceMs?: number) =>
  afterGateways(step, snapshot, { gateways, sinceMs, nowMs });

test("who stops keeps its ranks while its gateways are there, and no longer than their time", () => {
  const first = look(child, 1);
  assert.deepEqual([first.step.actions, first.step.againInMs, first.sinceMs], [[lost], gatewaysMs, 0]);
  const last = look(child, 1, gatewaysMs - 1, 0);
  assert.deepEqual([last.step.actions, last.step.againInMs], [[lost], 1]);
  assert.deepEqual(look(child, 0, 5, 0), { step, sinceMs: undefined }, "the last gateway has gone");
  assert.deepEqual(look(child, 1, gatewaysMs, 0).step, step, "its time is over");
});

test("a deployment behind a green one stops in that order; one with nobody in its place stops at once", () => {
  assert.deepEqual(look(behind, 1).step.actions, [lost]);
  assert.deepEqual(look(of({ suspend: true }), 1).step, step);
  assert.deepEqual(look(of({}, { labels: { "enodia.dev/green-of": "moe" } }), 1).step, step);
});
