import assert from "node:assert/strict";
import { test } from "node:test";
import { objectRefusal, podRefusal } from "./refusal-text.ts";

test("a refusal names the field as the spec has it, and what to do", () => {
  assert.equal(
    podRefusal('Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].foo"').message,
    'the API server refuses the worker pod: Pod in version "v1" cannot be handled as a Pod: strict decoding error: ' +
      'unknown field "spec.podTemplate.spec.containers[0].foo"; correct spec.podTemplate',
  );
  assert.equal(
    podRefusal('Pod "moe-0" is invalid: [spec.priorityClassName: Invalid value: "a b", metadata.labels: Invalid value: "-"]').message,
    'the API server refuses the worker pod: Pod "moe-0" is invalid: [spec.podTemplate.spec.priorityClassName: Invalid value: "a b", ' +
      'spec.podTemplate.metadata.labels: Invalid value: "-"]; correct spec.podTemplate',
  );
  assert.equal(
    objectRefusal("Deployment", "moe-gateway", '.spec.template.spec.containers[name="gateway"].foo: field not declared in schema'),
    "the API server refuses Deployment moe-gateway: " +
      'spec.gateway.podTemplate.spec.containers[name="gateway"].foo: field not declared in schema; correct spec.gateway.podTemplate',
  );
});

test("a class that admission does not find is named with its field", () => {
  const message = 'pods "moe-0" is forbidden: no PriorityClass with name nope nope was found';
  assert.match(podRefusal(message).message, /with name nope nope was found; correct spec\.podTemplate\.spec\.priorityClassName$/);
});

test("a quota is no wrong field", () => {
  assert.match(
    podRefusal('pods "moe-0" is forbidden: exceeded quota: q').message,
    /; raise the quota or lower what spec\.podTemplate asks for$/,
  );
});
