// Whole CPUs by a pod's template: those of Guaranteed pods alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { wholeCpus } from "./process.ts";

const of = (resources: object | undefined, beside: readonly object[] = []): number =>
  wholeCpus({ spec: { containers: [{ name: "runtime", ...(resources ? { resources } : {}) }, ...beside] } }, "runtime");
const limits = { cpu: "8", memory: "16Gi" };

test("whole CPUs are those of a container whose limits are its requests, in a pod of such containers", () => {
  assert.equal(of({ limits }), 8, "requests are the limits where there are none");
  assert.equal(of({ limits: { cpu: 4, memory: "1Gi" }, requests: { cpu: "4000m", memory: "1024Mi" } }), 4);
  assert.equal(of({ limits }, [{ name: "proxy", resources: { limits: { cpu: "100m", memory: "64Mi" } } }]), 8);
});

test("of shares of a pool there are none", () => {
  assert.equal(wholeCpus(undefined, "runtime"), 0);
  assert.equal(of(undefined), 0);
  assert.equal(of({ requests: limits }), 0, "requests alone");
  assert.equal(of({ limits: { cpu: "1500m", memory: "1Gi" } }), 0, "a part of a CPU");
  assert.equal(of({ limits: { cpu: "1.5", memory: "1Gi" } }), 0, "the same in words");
  assert.equal(of({ limits: { cpu: "2" } }), 0, "no limit of memory");
  assert.equal(of({ limits, requests: { cpu: "2", memory: "16Gi" } }), 0, "fewer are requested");
  assert.equal(of({ limits }, [{ name: "proxy" }]), 0, "a container beside it without limits");
  assert.equal(of({ limits: { cpu: "many", memory: "1Gi" } }), 0);
});
