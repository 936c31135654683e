import assert from "node:assert/strict";
import { test } from "node:test";
import { FieldConflictError, kubeError } from "./errors.ts";

const code = (status: number, message: string) => kubeError(status, JSON.stringify({ message }), "applying").code;

test("an answer that judges the object by its schema is Invalid, whatever its status", () => {
  for (const message of [
    'failed to create typed patch object (ns/moe-gateway; apps/v1, Kind=Deployment): .spec.template.spec.containers[name="gateway"].foo: field not declared in schema',
    "failed to create typed patch object (ns/moe-gateway; apps/v1, Kind=Deployment): .spec.template.spec.tolerations: expected list, got &{map[]}",
    "failed to convert new object (ns/moe-gateway; apps/v1, Kind=Deployment) to proper version (apps/v1): unable to convert unstructured object to apps/v1, Kind=Deployment: quantities must match the regular expression",
  ]) {
    const error = kubeError(500, JSON.stringify({ message }), "applying");
    assert.deepEqual([error.code, error.retry, error.message], ["Invalid", "never", message]);
  }
  assert.equal(code(422, "spec.priorityClassName: Invalid value"), "Invalid");
});

test("a 409 that names managers is a FieldConflict with fields and managers, any other is a Conflict", () => {
  const cause = (message: string, field: string) => ({ reason: "FieldManagerConflict", message, field });
  const body = {
    message: "Apply failed with 4 conflicts: ...",
    reason: "Conflict",
    details: {
      causes: [
        cause('conflict with "kubectl" with subresource "scale" using apps/v1 at 2026-03-01T10:00:00Z', ".spec.replicas"),
        cause('conflict with "other-team" using policy/v1', ".spec.maxUnavailable"),
        cause('conflict with "a \\"b\\""', '.spec.ports[port=1,protocol="TCP"].port'),
        cause("conflict with somebody", ".spec.x"),
        { reason: "FieldValueInvalid", message: "no", field: "spec" },
      ],
    },
  };
  const error = kubeError(409, JSON.stringify(body), "applying");
  assert.ok(error instanceof FieldConflictError);
  assert.deepEqual([error.code, error.message], ["FieldConflict", body.message]);
  assert.deepEqual(error.conflicts, [
    { field: ".spec.replicas", manager: "kubectl", subresource: "scale", operation: "Update" },
    { field: ".spec.maxUnavailable", manager: "other-team", subresource: "", operation: "Update" },
    { field: '.spec.ports[port=1,protocol="TCP"].port', manager: 'a "b"', subresource: "", operation: "Apply" },
    { field: ".spec.x", manager: "conflict with somebody", subresource: "", operation: "Apply" },
  ]);
  for (const details of [undefined, {}, { causes: "x" }, { causes: [null] }])
    assert.equal(kubeError(409, JSON.stringify({ message: "modified", reason: "Conflict", details }), "applying").code, "Conflict");
});

test("another answer of 5xx is not: it is tried again", () => {
  assert.equal(code(500, "Internal error occurred: failed calling webhook"), "Unavailable");
  assert.equal(code(503, "the server is currently unable to handle the request"), "Unavailable");
  assert.equal(kubeError(502, "bad gateway", "applying").code, "Unavailable");
});
