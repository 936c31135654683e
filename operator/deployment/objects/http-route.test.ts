// The HTTPRoute as it is made of the spec, and when it is there.
import assert from "node:assert/strict";
import { test } from "node:test";
import { moeDeploymentSpecSchema } from "../../../crds/moe-deployment.ts";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { absentObjects, appliedObjects } from "./index.ts";

const parentRefs = [{ name: "public", namespace: "gateways" }];
const context = (httpRoute: object | undefined, routable = true, more: object = {}) => ({
  deployment: deployment({ gateway: httpRoute ? { httpRoute } : {}, ...more }),
  settings,
  routable,
});
const routeOf = (of: ReturnType<typeof context>): any => appliedObjects(of).find(({ resource }) => resource.kind === "HTTPRoute")?.object;
const goes = (of: ReturnType<typeof context>) => absentObjects(of).some(({ resource }) => resource.kind === "HTTPRoute");

test("it leads to the API of the deployment's Service alone, and no stream is cut by a time", () => {
  const { metadata, spec } = routeOf(context({ parentRefs }, true, { service: { port: 81 } }));
  assert.deepEqual([metadata.name, metadata.ownerReferences.length], ["moe", 1]);
  assert.deepEqual(spec, {
    parentRefs,
    rules: [
      {
        matches: [{ path: { type: "PathPrefix", value: "/v1" } }],
        backendRefs: [{ name: "moe", port: 81 }],
        timeouts: { request: "0s", backendRequest: "0s" },
      },
    ],
  });
});

test("a prefix is taken off on the way, and a header has the served model's name", () => {
  const model = { uri: "pvc://models/moe", servedName: "moe-8x" };
  const more = { hostnames: ["llm.example.com"], pathPrefix: "/chat", modelHeader: "X-Model", timeouts: { request: "5m" } };
  const { hostnames, rules } = routeOf(context({ parentRefs, ...more }, true, { model })).spec;
  assert.deepEqual(hostnames, ["llm.example.com"]);
  assert.deepEqual(rules[0].matches, [
    { path: { type: "PathPrefix", value: "/chat/v1" }, headers: [{ name: "X-Model", value: "moe-8x" }] },
  ]);
  assert.deepEqual(rules[0].filters[0].urlRewrite, { path: { type: "ReplacePrefixMatch", replacePrefixMatch: "/v1" } });
  assert.deepEqual(rules[0].timeouts, { request: "5m", backendRequest: "0s" });
});

test("it is there while it is wanted and can be, goes when it is not wanted, and stays for a while without the API", () => {
  assert.equal(routeOf(context(undefined)), undefined);
  assert.equal(routeOf(context({ parentRefs }, false)), undefined);
  assert.deepEqual([goes(context(undefined)), goes(context({ parentRefs })), goes(context({ parentRefs }, false))], [true, false, false]);
});

test("what is no name, prefix, header or time is refused by its field", () => {
  const reads = (more: object) => {
    const spec = { model: { uri: "pvc://a/b" }, gateway: { httpRoute: { parentRefs, ...more } } };
    return moeDeploymentSpecSchema.safeParse(spec).error?.issues[0]?.path.join(".") ?? "taken";
  };
  assert.equal(reads({ hostnames: ["*.example.com"], pathPrefix: "/a/b.c", timeouts: { request: "1h30m" } }), "taken");
  const bad = [{ parentRefs: [] }, { hostnames: ["a/b"] }, { modelHeader: "a b" }, { timeouts: { request: "-1s" } }];
  const where = ["parentRefs", "hostnames.0", "modelHeader", "timeouts.request"];
  assert.deepEqual(
    bad.map(reads),
    where.map((field) => `gateway.httpRoute.${field}`),
  );
  for (const pathPrefix of ["chat", "/", "/chat/", "/a//b", "/a/../b", "/./a", "/a?b"])
    assert.equal(reads({ pathPrefix }), "gateway.httpRoute.pathPrefix", pathPrefix);
});
