import assert from "node:assert/strict";
import { test } from "node:test";
import { everybody, nobody, type PodState, unexplained } from "./pods.ts";

const pod = (name: string, more: Partial<PodState> = {}): PodState => ({
  ...{ name, uid: `uid of ${name}`, node: "n", ip: "10.0.0.1", component: "worker", rank: 0, restarts: 0 },
  ...more,
});
const none: ReadonlySet<string> = new Set();

test("a pod that is gone and one that restarted are told, and one that is new or as it was is not", () => {
  const before = [pod("a"), pod("b"), pod("c", { restarts: 1 })];
  const after = [pod("a", { restarts: 2 }), pod("c", { restarts: 1 }), pod("d")];
  assert.deepEqual(unexplained(before, after, nobody, none), ["pod a on n restarted 2 times", "pod b on n was replaced"]);
});

test("those that the fault strikes, and those that Kubernetes evicted, are explained", () => {
  const before = [pod("a"), pod("b")];
  assert.deepEqual(
    unexplained(before, [], ({ name }) => name === "a", new Set(["uid of b"])),
    [],
  );
  assert.deepEqual(unexplained(before, [], everybody, none), []);
  assert.equal(unexplained(before, [], nobody, none).length, 2);
});
