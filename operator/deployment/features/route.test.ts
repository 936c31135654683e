// The verdict on a deployment's HTTPRoute: without the API, before a controller has spoken, and by what each Gateway says of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, snapshot } from "../../../test/kit/deployment/deployment.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { RouteFacts } from "../core/snapshot.ts";
import { routeFacts } from "../observe/observe.ts";
import { routeVerdict } from "./route.ts";

const httpRoute = { parentRefs: [{ name: "public", namespace: "gateways", sectionName: "https" }] };
const spec = (route: object = httpRoute) => deployment({ gateway: { httpRoute: route } });
const says = (route: RouteFacts | undefined, of = spec()) => {
  const { status, reason, message } = routeVerdict(snapshot({ deployment: of, route })) ?? {};
  return `${status} ${reason}: ${message}`;
};

interface Said {
  readonly type?: string;
  readonly status?: string;
  readonly reason?: string;
  readonly message?: string;
  readonly observedGeneration?: number;
}

const parent = (conditions: readonly Said[], more: object = {}) => ({
  parentRef: { group: "gateway.networking.k8s.io", kind: "Gateway", name: "public", namespace: "gateways", sectionName: "https", ...more },
  controllerName: "example.com/gateway",
  conditions: conditions.map((one) => ({ reason: "R", message: "m", observedGeneration: 2, status: "True", ...one })),
});
const good = [{ type: "Accepted" }, { type: "ResolvedRefs" }];
const seen = (...parents: readonly unknown[]): RouteFacts => {
  const object: KubeObject = { apiVersion: "v1", kind: "HTTPRoute", metadata: { name: "moe", generation: 2 }, status: { parents } };
  return routeFacts("served", object);
};

test("nothing is said where no route is asked for, whatever the cluster has", () => {
  assert.equal(routeVerdict(snapshot({ route: { served: "absent", route: undefined } })), undefined);
});

test("without the API the field is named with what to install or to set; what is not known yet is not called missing", () => {
  const without = (served: RouteFacts["served"]) => says({ served, route: undefined });
  assert.match(
    without("absent"),
    /^False GatewayApiAbsent: spec\.gateway\.httpRoute: the cluster has no HTTPRoutes .*install the Gateway API/,
  );
  assert.match(without("forbidden"), /^False GatewayApiForbidden: .*rbac\.httpRoutes to true/);
  assert.match(without("unknown"), /^Unknown GatewayApiUnknown/);
  assert.match(without("served"), /^Unknown RouteNotMade/);
  assert.match(says(undefined), /^Unknown GatewayApiUnknown/);
});

const cases: Readonly<Record<string, { readonly parents: readonly unknown[]; readonly want: RegExp }>> = {
  "nobody has spoken": { parents: [], want: /^Unknown GatewayUnanswered: .*Gateway gateways\/public, listener https/ },
  "a controller of another Gateway has": { parents: [parent(good, { name: "other" })], want: /^Unknown GatewayUnanswered/ },
  "of another listener": { parents: [parent(good, { sectionName: "http" })], want: /^Unknown GatewayUnanswered/ },
  "of the Service, as a mesh does": { parents: [parent(good, { group: "", kind: "Service" })], want: /^Unknown GatewayUnanswered/ },
  "it is taken": { parents: [parent(good)], want: /^True Accepted: Gateway gateways\/public, listener https takes the route/ },
  "its listeners do not allow it": {
    parents: [parent([{ type: "Accepted", status: "False", reason: "NotAllowedByListeners", message: "no listener allows it" }])],
    want: /^False NotAllowedByListeners: Gateway gateways\/public, listener https: Accepted=False, NotAllowedByListeners: no listener/,
  },
  "the Service is not found": {
    parents: [parent([{ type: "Accepted" }, { type: "ResolvedRefs", status: "False", reason: "BackendNotFound", message: "no moe" }])],
    want: /^False BackendNotFound: .*ResolvedRefs=False, BackendNotFound: no moe \(example\.com\/gateway\)/,
  },
  "of an older route": {
    parents: [parent([{ type: "Accepted", observedGeneration: 1 }, { type: "ResolvedRefs" }])],
    want: /^Unknown GatewayUndecided: .*has not judged the route yet \(Accepted\)/,
  },
  "one half": { parents: [parent([{ type: "Accepted" }])], want: /^Unknown GatewayUndecided: .*\(ResolvedRefs\)/ },
  "two controllers claim it, and one objects": {
    parents: [parent(good), parent([{ type: "Accepted", status: "False", reason: "NoMatchingParent" }])],
    want: /^False NoMatchingParent/,
  },
  "a reason that is no word": { parents: [parent([{ type: "Accepted", status: "False", reason: "a b!" }])], want: /^False RouteRefused/ },
  "what cannot be read beside what can": { parents: [null, 7, { parentRef: "x" }, parent(good)], want: /^True Accepted/ },
};
for (const [name, { parents, want }] of Object.entries(cases)) {
  test(`a Gateway's word: ${name}`, () => assert.match(says(seen(...parents)), want));
}

test("of several Gateways each must take it, and one in the deployment's own namespace need not be named with it", () => {
  const of = spec({ parentRefs: [{ name: "public", namespace: "gateways", sectionName: "https" }, { name: "inner" }] });
  const inner = (conditions: readonly Said[]) => parent(conditions, { name: "inner", namespace: undefined, sectionName: undefined });
  assert.match(says(seen(parent(good)), of), /^Unknown GatewayUnanswered: .*Gateway ns\/inner/);
  assert.match(says(seen(parent(good), inner(good)), of), /^True Accepted: .*gateways\/public.*; Gateway ns\/inner takes/);
  const refused = inner([{ type: "Accepted", status: "False", reason: "No" }]);
  assert.match(says(seen(parent([]), refused), of), /^False No: Gateway ns\/inner/);
});

test("words of others are cut, so that a status takes them", () => {
  const long = says(seen(parent([{ type: "Accepted", status: "False", reason: "No", message: "x".repeat(40_000) }])));
  assert.ok(long.length < 600, String(long.length));
});

test("a status of another form is one without parents", () => {
  const object: KubeObject = { apiVersion: "v1", kind: "HTTPRoute", metadata: { name: "moe" }, status: { parents: "none" } };
  assert.deepEqual(routeFacts("served", object), { served: "served", route: { generation: 0, parents: [] } });
});
