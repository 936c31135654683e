import assert from "node:assert/strict";
import { test } from "node:test";
import { kubeError } from "./errors.ts";

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

test("another answer of 5xx is not: it is tried again", () => {
  assert.equal(code(500, "Internal error occurred: failed calling webhook"), "Unavailable");
  assert.equal(code(503, "the server is currently unable to handle the request"), "Unavailable");
  assert.equal(kubeError(502, "bad gateway", "applying").code, "Unavailable");
});
