// A decision is the same whatever the order of the features that claim independence, and a feature gets what it needs alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, pod, view } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import { noMemory } from "../core/memory.ts";
import type { Accepted } from "../objects/revision.ts";
import type { Observed } from "../observed.ts";
import { acting, asking, decide, plan } from "./decide.ts";
import { type Listed, runFeatures } from "./feature.ts";
import type { Answers } from "./spec.ts";

const answers: Answers = {
  ...{ refusals: [], conflicts: [], accepted: true, successor: "Accepted", revisions: [], failure: undefined },
  ...{ deliveryFailure: undefined, againInMs: undefined, remember: { dryRuns: new Map(), jobRefused: undefined } },
};
const other = deployment({ model: { uri: "pvc://models/other" } });
const before = (): Accepted => {
  const { rendered } = observed();
  const { wanted: template, gateway, runtimeImage } = rendered;
  return { generation: 1, spec: deployment().spec, template, gateway, runtimeImage };
};
const metrics = [{ name: "kvUse", target: 50 }];
const autoscale = { min: 1, max: 4, metrics, scaleToZero: { idleAfter: "10m" } };
const scaled = (spec: object, more: Partial<Observed> = {}): Observed =>
  observed({ deployment: deployment({ ...spec, elasticity: { autoscale } }), ...more });
const worlds: Readonly<Record<string, () => Observed>> = {
  "a deployment that serves": () => observed({ view: view() }),
  "one of which nothing is there yet": () => observed({ pods: [] }),
  "another model beside ranks that serve": () => observed({ deployment: other, revisions: [{ number: 1, accepted: before() }] }),
  "a model that a weight server downloads": () =>
    observed({
      deployment: deployment({ model: { uri: "hf://a/b", cache: { ephemeral: { sizeLimit: "10Gi" } } } }),
      pods: [],
      remoteStore: true,
    }),
  "a shrink by the autoscaler": () => scaled({ replicas: 2 }),
  "a copy that is older than our last status": () => scaled({}, { stale: true, memory: { ...noMemory, zero: "going" } }),
  "a number that somebody else applies": () => scaled({}, { replicasOwner: { type: "applied", manager: "argocd" } }),
  "zero ranks, and a request": () =>
    scaled({ replicas: 0 }, { pods: [], view: view({ gateways: [{ name: "g", idleMs: 0, wantsRanks: true, holds: true }] }) }),
  "what a deleted namesake left": () => observed({ pods: [], orphans: { workers: [pod(0), pod(1)], gateways: 1 } }),
  "a suspended deployment": () => observed({ deployment: deployment({ suspend: true }), pods: [pod(0)] }),
};

type Features = Readonly<Record<string, Listed>>;

/** All orders in which every feature comes after those that it needs. */
function orders(left: Features, done: readonly string[]): Features[] {
  const names = Object.keys(left);
  if (names.length === 0) return [{}];
  const ready = names.filter((name) => Object.keys(left[name]?.needs ?? {}).every((one) => done.includes(one)));
  return ready.flatMap((name) => {
    const { [name]: next, ...rest } = left;
    return orders(rest, [...done, name]).map((order) => ({ [name]: next as Listed, ...order }));
  });
}

for (const [name, world] of Object.entries(worlds))
  test(`${name}: no order of independent features decides otherwise`, () => {
    const seen = world();
    const planned = plan(seen);
    const decided = decide(seen, planned, answers);
    const first = orders(asking, []);
    const second = orders(acting, [...Object.keys(asking), "answers"]);
    for (const order of first) assert.deepEqual(runFeatures(order, seen, {}), planned);
    for (const order of second) assert.deepEqual(runFeatures(order, seen, { ...planned, answers }), decided);
  });

test("what was found is frozen: no feature changes what another has found", () => {
  const planned = plan(observed());
  assert.ok(Object.isFrozen(planned));
  for (const result of Object.values(planned)) assert.ok(Object.isFrozen(result));
});
