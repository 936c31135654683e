// The fate of the pods of a deleted deployment of the same name, case by case.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, gatewayFacts, pod, snapshot } from "../../../test/kit/deployment/deployment.ts";
import { gatewaysWait, orphansLeft } from "../core/orphans.ts";
import type { Orphans, PodFacts, Snapshot } from "../core/snapshot.ts";
import { orphanRemovals } from "./pod-repair.ts";

const old = (rank: number, more: Partial<PodFacts> = {}): PodFacts => pod(rank, { name: `old-${rank}`, uid: `old-${rank}`, ...more });
const orphans = (workers: readonly PodFacts[], gateways = 1): Orphans => ({ workers, gateways });
const waiting = pod(1, { ready: false, problem: "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu." });
const quota = 'pods "moe-1" is forbidden: exceeded quota: pods';

interface Case {
  readonly world: Partial<Snapshot>;
  readonly ranks?: number;
  readonly createError?: string;
  readonly want: readonly string[];
}

const cases: Readonly<Record<string, Case>> = {
  "they stay while the old gateways are there": { world: { orphans: orphans([old(0), old(1)]), pods: [pod(0)] }, want: [] },
  "with the last old gateway they go": { world: { orphans: orphans([old(0), old(1)], 0) }, want: ["old-0", "old-1"] },
  "one that is not ready may be again": { world: { orphans: orphans([old(0, { ready: false })]) }, want: [] },
  "those that have ended or are lost go, whatever gateways there are": {
    world: { orphans: orphans([old(0, { ready: false, terminal: true }), old(1, { ready: false, lost: true }), old(2)]) },
    want: ["old-0", "old-1"],
  },
  "what goes already is not deleted twice": { world: { orphans: orphans([old(0, { terminating: true })], 0) }, want: [] },
  "all go where no ranks are wanted": { world: { orphans: orphans([old(0), old(1)]) }, ranks: 0, want: ["old-0", "old-1"] },
  "a rank that fits nowhere takes the place of one": {
    world: { orphans: orphans([old(0), old(1)]), pods: [pod(0), waiting] },
    want: ["old-1"],
  },
  "first of one that does not serve": {
    world: { orphans: orphans([old(0, { ready: false }), old(1)]), pods: [waiting] },
    want: ["old-0"],
  },
  "and the next one waits until that one has gone": {
    world: { orphans: orphans([old(0), old(1, { terminating: true })]), pods: [waiting] },
    want: [],
  },
  "so does one that a quota has no room for": { world: { orphans: orphans([old(0)]) }, createError: quota, want: ["old-0"] },
  "and a gateway": {
    world: { orphans: orphans([old(0)]), gateway: gatewayFacts({ message: quota, createError: quota }) },
    want: ["old-0"],
  },
  "a pod that fits nowhere at any time takes nobody's place": {
    world: { orphans: orphans([old(0)]), pods: [pod(0, { ready: false, problem: "Unschedulable: 3 node(s) didn't match selector" })] },
    want: [],
  },
  "a pod that cannot start for another reason takes nobody's place": {
    world: { orphans: orphans([old(0)]), pods: [pod(0, { ready: false, problem: "ImagePullBackOff: no such image" })] },
    createError: "pods is forbidden: no such PriorityClass",
    want: [],
  },
};
for (const [sentence, { world, ranks = 3, createError = "", want }] of Object.entries(cases)) {
  test(`orphans: ${sentence}`, () => {
    const removed = orphanRemovals(snapshot(world), ranks, createError);
    assert.deepEqual(removed.flatMap((action) => (action.type === "delete" ? [action.pod.name] : [])).sort(), want);
  });
}

test("the gateways wait while the old ranks serve and the new ones do not", () => {
  const serving = orphans([old(0), old(1)]);
  const { spec } = deployment({ replicas: 2 });
  const unready = [pod(0), pod(1, { ready: false })];
  assert.equal(gatewaysWait(serving, [], spec), true);
  assert.equal(gatewaysWait(serving, unready, spec), true);
  assert.equal(gatewaysWait(serving, [pod(0), pod(1)], spec), false);
  assert.equal(gatewaysWait(serving, [pod(0), pod(1), pod(2, { ready: false })], spec), false, "one more pod is no reason to wait");
  assert.equal(gatewaysWait(orphans([]), unready, spec), false);
  assert.equal(gatewaysWait(orphans([old(0)], 0), unready, spec), false);
  assert.equal(gatewaysWait(serving, [], { ...spec, suspend: true }), false);
});

test("the command that ends it names every old worker, as many as a message holds", () => {
  const said = (left: Orphans) => orphansLeft(snapshot({ orphans: left }));
  assert.equal(said(orphans([], 1)), "");
  assert.match(said(orphans([old(0), old(1)])), /^2 worker pods and 1 gateway pod of .*: kubectl -n ns delete pods old-0 old-1$/);
  assert.match(said(orphans([old(0)], 0)), /^1 worker pod and 0 gateway pods of .* are being removed$/);
  assert.match(said(orphans(Array.from({ length: 40 }, (_, rank) => old(rank)))), /old-15$/);
});
