// The last question before replicas are written, by who else has the field, and what is said where they are left alone.

import assert from "node:assert/strict";
import { test } from "node:test";
import { autoscaleOf, look, servingRanks, start } from "../../../test/kit/deployment/autoscale.ts";
import { autoscaler, type Owned, ownership } from "../core/replicas-owner.ts";
import { type AutoscaleInput, decide } from "./autoscale/desired-ranks.ts";
import { type Write, whetherToWrite } from "./scale.ts";

const at = new Date(start - 60_000).toISOString();
const us = { manager: autoscaler, operation: "Update" as const };
const kubectl = { manager: "kubectl", operation: "Update" as const };
const argo = { manager: "argocd-controller", operation: "Apply" as const };

const owners: Readonly<Record<string, { readonly given: Partial<Owned>; readonly want: string }>> = {
  "it is ours once it was set by us": { given: { managers: [us], lastSet: at }, want: "ours" },
  "it is ours though our status was lost": { given: { managers: [us] }, want: "ours" },
  "whoever created the object has it no more than we have": { given: { managers: [kubectl] }, want: "free" },
  "it is another's who has set it since we have": { given: { managers: [kubectl], lastSet: at }, want: "taken" },
  "it is handed back by the time of our last step": { given: { managers: [kubectl], lastSet: at, resume: at }, want: "free" },
  "it is not handed back by the time of another step": {
    given: { managers: [kubectl], lastSet: at, resume: new Date(start).toISOString() },
    want: "taken",
  },
  "it is another's who applies it, before we have set it": { given: { managers: [argo] }, want: "applied" },
  "it is another's who applies the same number": { given: { managers: [us, argo], lastSet: at }, want: "applied" },
  "an applied field is not handed back": { given: { managers: [argo], lastSet: at, resume: at }, want: "applied" },
  "nobody has it": { given: { managers: [], lastSet: at }, want: "nobody" },
};
for (const [sentence, { given, want }] of Object.entries(owners))
  test(`replicas: ${sentence}`, () => {
    assert.equal(ownership({ managers: [], lastSet: undefined, resume: undefined, ...given }).type, want);
  });

const busy = { serving: servingRanks(3, 480) };
const last = { time: new Date(start - 600_000).toISOString(), from: 2, to: 3 };
function write(owned: Partial<Owned>, given: Partial<AutoscaleInput>, present = 3): Write {
  const input = look(given);
  const owner = ownership({ managers: [us], lastSet: given.lastScale?.time, resume: undefined, ...owned });
  return whetherToWrite({ input, decision: decide(input), owner, present, metadata: { name: "moe", namespace: "ns" } });
}
const outcome = ({ to, verdict }: Write) => [to, verdict.reason];

test("what is ours or nobody's is written", () => {
  assert.deepEqual(outcome(write({}, busy)), [5, "ScalingUp"]);
  assert.deepEqual(outcome(write({ managers: [] }, busy)), [5, "ScalingUp"]);
  assert.deepEqual(outcome(write({ managers: [kubectl] }, busy)), [5, "ScalingUp"]);
  assert.deepEqual(outcome(write({}, {})), [undefined, "AtTarget"]);
});

test("what another has is left alone, with who has it and the remedy", () => {
  const taken = write({ managers: [kubectl] }, { ...busy, lastScale: last });
  assert.deepEqual(outcome(taken), [undefined, "ReplicasTaken"]);
  assert.equal(
    taken.verdict.message,
    `"kubectl" has set spec.replicas to 3 since the autoscaler set 3 at ${last.time}; nothing is scaled until it is handed back: kubectl annotate moed moe -n ns --overwrite enodia.dev/resume-autoscale=${last.time}`,
  );
  const applied = write({ managers: [argo] }, busy);
  assert.deepEqual([...outcome(applied), applied.verdict.status], [undefined, "ReplicasApplied", "False"]);
  assert.match(
    applied.verdict.message,
    /^"argocd-controller" applies spec\.replicas, 3 now, and would set it back: leave spec\.replicas out/,
  );
});

test("a number that fell to its default when somebody left it out is put back to the ranks that are there", () => {
  const idle = { replicas: 1, serving: servingRanks(6, 0), lastScale: last };
  assert.deepEqual(outcome(write({ managers: [] }, idle, 6)), [6, "Restored"]);
  assert.deepEqual(outcome(write({ managers: [] }, { ...idle, spec: autoscaleOf({ max: 4 }) }, 6)), [4, "Restored"]);
  assert.deepEqual(outcome(write({ managers: [us] }, idle, 6)), [undefined, "AtMinimum"], "a number that we have set is no default");
  const two = { ...idle, replicas: 2, spec: autoscaleOf({ min: 2 }) };
  assert.deepEqual(outcome(write({ managers: [] }, two, 6)), [undefined, "AtMinimum"], "another number was set by somebody");
});
