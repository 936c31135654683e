// Which pods have our gate, and whose gates are told of.
import assert from "node:assert/strict";
import { test } from "node:test";
import { gated, heldByOthers } from "./pod-gates.ts";

const ours = { name: "enodia.dev/certificate" };
const quota = { name: "kueue.x-k8s.io/admission" };
const specs: Readonly<Record<string, { given: object; gates: unknown }>> = {
  "any pod": { given: {}, gates: [ours] },
  "a template with null, which is an empty list": { given: { schedulingGates: null }, gates: [ours] },
  "a template with a gate of its own": { given: { schedulingGates: [quota] }, gates: [quota, ours] },
  "a node's name, beside which the API server takes none": { given: { nodeName: "a" }, gates: undefined },
  "an empty name of a node": { given: { nodeName: "" }, gates: [ours] },
  "no list, which the API server is to judge": { given: { schedulingGates: "x" }, gates: "x" },
};
for (const [sentence, { given, gates }] of Object.entries(specs))
  test(`gates of ${sentence}`, () => {
    const { schedulingGates, ...rest } = gated({ ...given, schedulerName: "s" }) as Record<string, unknown>;
    assert.deepEqual(schedulingGates, gates);
    assert.equal(rest.schedulerName, "s");
  });

test("only gates of others are told of", () => {
  assert.equal(heldByOthers([ours.name]), "");
  assert.match(heldByOthers([ours.name, quota.name]), /^SchedulingGated: it waits for whoever removes kueue.x-k8s.io\/admission$/);
});
