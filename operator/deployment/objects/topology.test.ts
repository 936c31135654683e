// Ranks near one another or apart: what each mode puts into the worker pods, beside what their template says, and what it refuses.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { gatewayTemplate } from "./gateway.ts";
import { workerTemplate } from "./worker-pod.ts";

const rack = "example.com/rack";
const hostname = "kubernetes.io/hostname";
const labelSelector = { matchLabels: { "enodia.dev/deployment": "moe", "enodia.dev/component": "worker" } };
const context = (spec: object) => ({ deployment: deployment(spec), settings });
const template = (topology: object | undefined, spec?: object) =>
  workerTemplate(context({ ...(topology ? { scheduling: { topology } } : {}), ...(spec ? { podTemplate: { spec } } : {}) }));
const spread = (topologyKey: string) => ({ maxSkew: 1, topologyKey, whenUnsatisfiable: "ScheduleAnyway", labelSelector });
const preferred = "preferredDuringSchedulingIgnoredDuringExecution";
const term = (weight: number, topologyKey: string) => ({ weight, podAffinityTerm: { topologyKey, labelSelector } });

test("without a topology ranks are spread over nodes, as before the field was there", () => {
  const { pod, hash } = template(undefined);
  assert.deepEqual([pod.spec.topologySpreadConstraints, pod.spec.affinity], [[spread(hostname)], undefined]);
  assert.notEqual(template({ key: rack, mode: "Pack" }).hash, hash, "a topology rolls");
  assert.notEqual(template({ key: rack, mode: "Spread" }).hash, template({ key: rack, mode: "Pack" }).hash);
});

test("Pack prefers the domain of the ranks that are there, and on it nodes of their own, which counts for less", () => {
  const { pod, refusals } = template({ key: rack, mode: "Pack" });
  assert.deepEqual(refusals, []);
  assert.equal((pod.spec.topologySpreadConstraints as unknown[]).length, 0, "a score of its own would outweigh it");
  assert.deepEqual(pod.spec.affinity, {
    podAffinity: { [preferred]: [term(100, rack)] },
    podAntiAffinity: { [preferred]: [term(10, hostname)] },
  });
  const onOne = template({ key: hostname, mode: "Pack" }).pod.spec.affinity;
  assert.deepEqual(onOne, { podAffinity: { [preferred]: [term(100, hostname)] } }, "on one node: nothing keeps them apart");
});

test("Spread prefers domains with fewer ranks, and in them nodes with fewer", () => {
  assert.deepEqual(template({ key: rack, mode: "Spread" }).pod.spec.topologySpreadConstraints, [spread(hostname), spread(rack)]);
  assert.deepEqual(template({ key: hostname, mode: "Spread" }).pod.spec.topologySpreadConstraints, [spread(hostname)]);
});

test("what the template says of affinity and spread stays, and the topology comes behind it", () => {
  const nodeAffinity = { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } };
  const theirs = { weight: 1, podAffinityTerm: { topologyKey: "x", labelSelector: {} } };
  const required = [{ topologyKey: "y", labelSelector: {} }];
  const affinity = {
    nodeAffinity,
    podAffinity: { [preferred]: [theirs], requiredDuringSchedulingIgnoredDuringExecution: required },
  };
  assert.deepEqual(template({ key: rack, mode: "Pack" }, { affinity }).pod.spec.affinity, {
    nodeAffinity,
    podAffinity: { [preferred]: [theirs, term(100, rack)], requiredDuringSchedulingIgnoredDuringExecution: required },
    podAntiAffinity: { [preferred]: [term(10, hostname)] },
  });
  const own = [{ maxSkew: 2, topologyKey: rack, whenUnsatisfiable: "DoNotSchedule" }];
  const { pod, refusals } = template({ key: rack, mode: "Spread" }, { topologySpreadConstraints: own });
  assert.deepEqual([refusals, pod.spec.topologySpreadConstraints], [[], [...own, spread(rack)]], "one must hold, the other is preferred");
  assert.deepEqual(template({ key: rack, mode: "Pack" }, { affinity: null }).refusals, [], "null is nothing");
});

const refused: Record<string, { mode: string; spec: object; want: RegExp }> = {
  "the same preference twice": {
    mode: "Spread",
    spec: { topologySpreadConstraints: [{ maxSkew: 3, topologyKey: rack, whenUnsatisfiable: "ScheduleAnyway" }] },
    want: /^spec\.podTemplate\.spec\.topologySpreadConstraints has "example.com\/rack" .* remove it there, or remove spec\.scheduling\.topology$/,
  },
  "an affinity that is none": { mode: "Pack", spec: { affinity: "near" }, want: /^spec\.podTemplate\.spec\.affinity must be an object$/ },
  "a list that is none": {
    mode: "Pack",
    spec: { affinity: { podAffinity: { [preferred]: {} } } },
    want: /^spec\.podTemplate\.spec\.affinity\.podAffinity\.preferred\w+ must be a list of objects$/,
  },
  "constraints that are none": {
    mode: "Spread",
    spec: { topologySpreadConstraints: [1] },
    want: /topologySpreadConstraints must be a list of objects$/,
  },
};
for (const [what, { mode, spec, want }] of Object.entries(refused)) {
  test(`${what} is refused by its field`, () => {
    const [first, ...others] = template({ key: rack, mode }, spec).refusals;
    assert.equal(others.length, 0);
    assert.match(first?.message ?? "", want);
  });
}

test("the topology is of ranks alone: gateways run where they did", () => {
  const plain = gatewayTemplate(context({}));
  const gateways = gatewayTemplate(context({ scheduling: { topology: { key: rack, mode: "Pack" } } }));
  assert.deepEqual([gateways.pod, gateways.hash], [plain.pod, plain.hash]);
});
