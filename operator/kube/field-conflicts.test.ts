import assert from "node:assert/strict";
import { test } from "node:test";
import { conflictText, type FieldConflict, isTakeable, type Takeable } from "./field-conflicts.ts";

const by = (manager: string, more: Partial<FieldConflict> = {}): FieldConflict => ({
  field: ".spec.replicas",
  manager,
  subresource: "",
  operation: "Update",
  ...more,
});
const autoscaled = by("kube-controller-manager", { subresource: "scale" });
const nothing: Takeable = { always: [], unscaled: false };

const cases: Readonly<Record<string, { given: FieldConflict; when?: Partial<Takeable>; want: boolean }>> = {
  "what the operator itself has updated": { given: by("enodia-operator"), want: true },
  "what nobody had before the first apply": { given: by("before-first-apply"), want: true },
  "a slip of a hand": { given: by("kubectl-edit"), want: true },
  "a hand that scales": { given: by("kubectl", { subresource: "scale" }), want: true },
  "what a person applies": { given: by("kubectl", { operation: "Apply" }), want: false },
  "what a person applies from the client": { given: by("kubectl-client-side-apply"), want: false },
  "what another tool applies": { given: by("argocd-controller", { operation: "Apply" }), want: false },
  "what another tool updates": { given: by("other-team"), want: false },
  "the number of an autoscaler that is there": { given: autoscaled, want: false },
  "the number of an autoscaler that is gone": { given: autoscaled, when: { unscaled: true }, want: true },
  "the number of another tool where there is no autoscaler": { given: by("keda"), when: { unscaled: true }, want: false },
  "a field that the spec orders for good": { given: autoscaled, when: { always: [".spec.replicas"] }, want: true },
  "another field than that": { given: by("other-team", { field: ".spec.paused" }), when: { always: [".spec.replicas"] }, want: false },
};
for (const [what, { given, when, want }] of Object.entries(cases))
  test(`${what} is ${want ? "taken" : "left alone"}`, () => assert.equal(isTakeable(given, { ...nothing, ...when }), want));

const object = (kind: string, name: string) => ({ apiVersion: "v1", kind, metadata: { name, namespace: "ns" } });
const clear = (what: string) => `kubectl -n ns patch ${what} --type=merge -p '{"metadata":{"managedFields":[{}]}}'`;

test("the text names object, field, manager and remedy", () => {
  assert.equal(
    conflictText(object("Deployment", "moe-gateway"), [autoscaled]),
    "Deployment moe-gateway stays as it is: .spec.replicas is managed by kube-controller-manager (scale); " +
      "unset spec.gateway.replicas to leave the number to it, or stop it (delete the autoscaler)",
  );
  const image = by("other-team", { field: '.spec.template.spec.containers[name="gateway"].image' });
  assert.match(conflictText(object("Deployment", "moe-gateway"), [image]), /; set it in spec\.gateway\.podTemplate instead, and have its/);
  assert.equal(
    conflictText(object("Service", "moe"), [by("other-team", { field: ".spec.ports" })]),
    "Service moe stays as it is: .spec.ports is managed by other-team; have its manager leave the field alone; " +
      `what a manager that is gone has left is cleared by: ${clear("service moe")}`,
  );
});

test("of a weight server, whose number no field of the spec has, the number is to be left alone", () => {
  const { metadata, ...weightServer } = object("Deployment", "moe-weight-server");
  const labels = { "enodia.dev/component": "weight-server" };
  assert.match(
    conflictText({ ...weightServer, metadata: { ...metadata, labels } }, [autoscaled]),
    /; have its manager leave the field alone; .*deployment moe-weight-server/,
  );
});

test("many fields are counted", () => {
  const many = Array.from({ length: 9 }, (_, i) => by("other-team", { field: `.spec.f${i}` }));
  const text = conflictText(object("Service", "moe"), many);
  assert.match(text, /\.spec\.f3 is managed by other-team, 5 more fields by others; /);
  assert.ok(!text.includes(".spec.f4"));
});
