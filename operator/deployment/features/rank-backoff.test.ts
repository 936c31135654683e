import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, now, pod, snapshot } from "../../../test/kit/deployment/deployment.ts";
import { podFailures, waitMs } from "./pod-actions.ts";

const ended = (name: string) => pod(1, { name, terminal: true, ready: false, problem: "OutOfcpu: Node didn't have enough resource: cpu" });
const later = (ms: number) => new Date(now.getTime() + ms);

/** Pods of rank 1 that end at once, one after another; the pause before each next one, in seconds. */
function pauses(count: number): number[] {
  let status: object = { observedGeneration: 1 };
  let at = now;
  return Array.from({ length: count }, (_, i) => {
    const failures = podFailures(snapshot({ now: at, deployment: deployment({}, status), pods: [ended(`moe-1-${i}`)] }));
    status = { observedGeneration: 1, expertParallel: { podFailures: failures } };
    const wait = waitMs(failures, 1, at);
    at = new Date(at.getTime() + wait);
    return wait / 1000;
  });
}

test("the first pod that ends costs no time, then the pause doubles up to five minutes", () => {
  assert.deepEqual(pauses(12), [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
});

test("a pod counts once, however often it is seen, and the status says of it what a user asks", () => {
  const first = podFailures(snapshot({ deployment: deployment({}, { observedGeneration: 1 }), pods: [ended("a")] }));
  assert.deepEqual(first, [{ rank: 1, count: 1, reason: "OutOfcpu", pod: "a", retryTime: "2026-03-01T10:00:00Z" }]);
  const again = deployment({}, { observedGeneration: 1, expertParallel: { podFailures: first } });
  assert.deepEqual(podFailures(snapshot({ deployment: again, pods: [ended("a")] })), first);
  assert.deepEqual(podFailures(snapshot({ deployment: again, pods: [{ ...ended("b"), terminating: true }] })), first);
  assert.equal(podFailures(snapshot({ deployment: again, pods: [ended("b")] }))[0]?.count, 2);
});

test("a pod that lasts ten minutes ends the count, and so does a changed spec", () => {
  const failures = [{ rank: 1, count: 7, reason: "OutOfcpu", pod: "a", retryTime: "2026-03-01T10:00:00Z" }];
  const status = { observedGeneration: 1, expertParallel: { podFailures: failures } };
  assert.equal(podFailures(snapshot({ now: later(599_000), deployment: deployment({}, status) })).length, 1);
  assert.deepEqual(podFailures(snapshot({ now: later(600_000), deployment: deployment({}, status) })), []);
  assert.deepEqual(podFailures(snapshot({ deployment: deployment({}, { ...status, observedGeneration: 0 }) })), []);
});
