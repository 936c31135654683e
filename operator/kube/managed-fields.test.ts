import assert from "node:assert/strict";
import { test } from "node:test";
import type { KubeObject } from "./kube.ts";
import { applies, givenUp, managersOf } from "./managed-fields.ts";

const entry = (manager: string, operation: string, fieldsV1: object, more: object = {}) => ({ manager, operation, fieldsV1, ...more });
const ours = entry("we", "Apply", { "f:metadata": { "f:labels": {} }, "f:spec": { "f:replicas": {}, "f:template": { "f:spec": {} } } });
const theirs = entry("hpa", "Update", { "f:spec": { "f:replicas": {} } }, { subresource: "scale" });
const updated = entry("we", "Update", { "f:spec": { "f:replicas": {} } });
const seen = entry("we", "Apply", { "f:spec": { "f:replicas": {} } }, { subresource: "scale" });
const path = ["spec", "replicas"];
const object = (...managedFields: unknown[]): KubeObject => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "a", managedFields },
});

test("a field is applied by who has it in an apply of the object itself", () => {
  assert.ok(applies("we", object(theirs, ours), path));
  assert.ok(applies("we", object(ours), ["spec", "template"]));
  assert.ok(!applies("we", object(theirs, updated, seen), path));
  assert.ok(!applies("they", object(ours), path));
  assert.ok(!applies("we", object(ours), ["spec", "selector"]));
  assert.ok(!applies("we", { apiVersion: "v1", kind: "Pod", metadata: { name: "a" } }, path));
});

test("a field is given up by its manager alone, and no empty set is left behind", () => {
  const [first, second] = givenUp("we", object(theirs, ours), path) as any[];
  assert.deepEqual(first, theirs);
  assert.deepEqual(second.fieldsV1, { "f:metadata": { "f:labels": {} }, "f:spec": { "f:template": { "f:spec": {} } } });
  const last = entry("we", "Apply", { "f:spec": { "f:replicas": {} } });
  assert.deepEqual(givenUp("we", object(last, theirs), path), [theirs]);
  assert.deepEqual(givenUp("we", object(ours), ["spec", "selector"]), [ours]);
});

test("all that have a field are told, however they came by it", () => {
  assert.deepEqual(managersOf(object(theirs, ours), path), [
    { manager: "hpa", operation: "Update" },
    { manager: "we", operation: "Apply" },
  ]);
  assert.deepEqual(managersOf(object(theirs), ["spec", "selector"]), []);
});
