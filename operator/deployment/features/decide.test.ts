// A decision is the same whatever the order of the features that claim independence, and no feature reads what it does not name.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, pod, view } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import { acting, asking, decide, plan } from "../decide.ts";
import { type Listed, runFeatures } from "./feature.ts";
import type { Answers, Results } from "./results.ts";
import type { Observed } from "../observed.ts";
import type { Accepted } from "../objects/revision.ts";

const answers: Answers = {
  ...{ refusals: [], conflicts: [], kept: true, successor: "Accepted", revisions: [], failure: undefined },
  ...{ deliveryFailure: undefined, againInMs: undefined, remember: { dryRuns: new Map(), jobRefused: undefined } },
};
const other = deployment({ model: { uri: "pvc://models/other" } });
const before = (): Accepted => {
  const { rendered } = observed();
  const { wanted: template, gateway, runtimeImage } = rendered;
  return { generation: 1, spec: deployment().spec, template, gateway, runtimeImage };
};
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
  "a shrink by the autoscaler": () =>
    observed({
      deployment: deployment({ replicas: 2, elasticity: { autoscale: { min: 1, max: 4, metrics: [{ name: "kvUse", target: 50 }] } } }),
    }),
  "a suspended deployment": () => observed({ deployment: deployment({ suspend: true }), pods: [pod(0)] }),
};

/** All orders in which every feature comes after those that it needs. */
function orders(left: readonly Listed[], done: readonly string[]): Listed[][] {
  if (left.length === 0) return [[]];
  const ready = left.filter(({ needs }) => needs.every((name) => done.includes(name)));
  return ready.flatMap((next) => {
    const rest = left.filter((one) => one !== next);
    return orders(rest, [...done, next.name]).map((order) => [next, ...order]);
  });
}

/** The same features, which find nothing but what they name. */
const strict = (features: readonly Listed[]): Listed[] =>
  features.map((one) => ({
    ...one,
    run: (seen, results) => one.run(seen, Object.fromEntries(one.needs.map((name) => [name, results[name]])) as unknown as Results),
  }));

for (const [name, world] of Object.entries(worlds))
  test(`${name}: no order of independent features decides otherwise`, () => {
    const seen = world();
    const planned = plan(seen);
    const decided = decide(seen, planned, answers);
    const first = orders(asking, []);
    const second = orders(acting, [...asking.map((one) => one.name), "answers"]);
    for (const order of first) assert.deepEqual(runFeatures(strict(order), seen, {}), planned);
    for (const order of second) assert.deepEqual(runFeatures(strict(order), seen, { ...planned, answers }), decided);
  });

test("what was found is frozen: no feature changes what another has found", () => {
  const planned = plan(observed());
  assert.ok(Object.isFrozen(planned));
  for (const result of Object.values(planned)) assert.ok(Object.isFrozen(result));
});
