// The refusals before anything is computed, of backends that lack an op or a size of one. The other checks: test/contract/backend.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Op, Segment } from "../kernels/segment.ts";
import { checkOps } from "./call-checks.ts";

const segment: Segment = {
  name: "expert.biased",
  inputs: [{ name: "x", dtype: "f32", width: 8 }],
  outputs: [{ name: "y", dtype: "f32", width: 8 }],
  weights: [{ name: "b", shape: [8] }],
  ops: [{ op: "addRow", x: "x", row: "b", out: "y" }],
};
const device = "cpu: some";

test("an op that a backend lacks is refused by its name, the segment's and the device's", () => {
  assert.throws(() => checkOps({ ops: new Set(["matMul"]), refuses: () => undefined }, device, segment), {
    code: "UnsupportedOp",
    message: "expert.biased: op addRow is not computed by this backend (cpu: some)",
  });
});

test("an op that it does not compute in these sizes is refused with its reason", () => {
  const refuses = ({ op }: Op) => (op === "addRow" ? "addRow of 8 values, only multiples of 16" : undefined);
  const ops = new Set(["addRow"]);
  assert.throws(() => checkOps({ ops, refuses }, device, segment), {
    code: "UnsupportedShape",
    message: "expert.biased: addRow of 8 values, only multiples of 16 (cpu: some)",
  });
  checkOps({ ops, refuses: () => undefined }, device, segment);
});
