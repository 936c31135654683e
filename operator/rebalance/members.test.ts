import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import { agreedModel, uniqueBytes } from "./members.ts";
import type { RankView } from "./observed.ts";

interface Facts {
  readonly model?: string;
  readonly codec?: string;
  readonly lost?: boolean;
}

function view(uid: string, { model, codec = "f32", lost = false }: Facts): RankView {
  const report = model === undefined ? {} : { description: { modelDigest: model, codec } };
  return { pod: { uid, lost }, report } as unknown as RankView;
}

test("workers agree on a model when all that may run another have spoken", () => {
  const none = new Set<string>();
  assert.deepEqual(agreedModel([view("a", { model: "m" }), view("b", { model: "m" })], none), { digest: "m", codec: "f32" });
  assert.equal(agreedModel([view("a", { model: "m" }), view("b", { model: "n" })], none), undefined);
  assert.equal(agreedModel([view("a", { model: "m" }), view("b", { model: "m", codec: "q4_0" })], none), undefined);
  assert.deepEqual(agreedModel([view("a", { model: "m", lost: true }), view("b", { model: "n" })], none)?.digest, "n");
  assert.deepEqual(agreedModel([view("a", {}), view("b", { model: "n" })], none)?.digest, "n", "a new pod says it later");
  assert.equal(agreedModel([view("a", {}), view("b", { model: "n" })], new Set(["a"])), undefined, "a pod of the plan may run the old one");
});

test("unique bytes count an expert for its last live host, and for all of its hosts when none is live", () => {
  const layer = { layer: 0, epoch: 1, hosts: [[0, 1], [1, 2], [2]], weights: [[500, 500], [500, 500], [1000]] };
  const plan = { epoch: 1, layers: [layer] } as unknown as PlacementPlan;
  const sizes = Float64Array.from([1, 10, 100]);
  assert.deepEqual([...uniqueBytes(plan, new Set([0, 1, 2]), sizes)], [[2, 100]]);
  assert.deepEqual(Object.fromEntries(uniqueBytes(plan, new Set([0, 1]), sizes)), { 1: 10, 2: 100 });
  assert.deepEqual(Object.fromEntries(uniqueBytes(plan, new Set([0]), sizes)), { 0: 1, 1: 10, 2: 110 });
});
