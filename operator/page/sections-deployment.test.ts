// What stands first on the page of a deployment, and the commands that are copied from it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { Series } from "./memory.ts";
import { deploymentSections } from "./sections-deployment.ts";

const unsampled = { imbalancePercent: [], boundPercent: [], ranks: [], queuedTokens: [], failedPercent: [] };
const sectionsOf = (spec: object, status: object, values?: Omit<Series["values"], keyof typeof unsampled>) => {
  const metadata = { namespace: "team", name: "mix", uid: "u", generation: 1 };
  const whole = { model: { uri: "pvc://m/x" }, replicas: 3, ...spec };
  const deployment = parseMoEDeployment({ apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata, spec: whole, status });
  const remembered = values && { series: { newest: 0, values: { ...unsampled, ...values } }, decisions: [], moves: [] };
  return deploymentSections({ deployment, placement: undefined, remembered, chosen: undefined }).sections;
};
const figures = (text = "") => [...text.matchAll(/<dt>(.*?)<\/dt><dd[^>]*>(.*?)<\/dd>/g)].map(([, name, value]) => `${name}: ${value}`);
const commands = (text = "") =>
  [...text.matchAll(/<pre[^>]*>(.*?)<\/pre>/g)].map(([, line = ""]) => line.replaceAll("&quot;", '"').replaceAll("&#39;", "'"));

test("the headline has what serves and how fast it is now, by the newest values", () => {
  const values = {
    ...{ tokensPerSecond: [9, 1234], firstTokenMs: [80, 42], gapMs: [7], requests: [3], requestsPerSecond: [2], kvUsePercent: [61] },
  };
  assert.deepEqual(figures(sectionsOf({}, { ready: "2/3" }, values).headline?.text), [
    "Ranks that serve: 2/3",
    "Tokens a second: 1234",
    "First token: 42 ms",
    "Between tokens: 7 ms",
    "Requests inside: 3",
    "Requests a second: 2",
    "KV memory in use: 61%",
  ]);
  assert.deepEqual(figures(sectionsOf({}, {}).headline?.text).slice(0, 2), ["Ranks that serve: -/3", "Tokens a second: -"]);
});

test("the commands to copy reach this deployment's Service, by its scheme, port, model and key", () => {
  const curl = (url: string, model: string, key = "") =>
    `curl ${url}/v1/chat/completions -H 'content-type: application/json'${key} -d '{"model":"${model}","messages":[{"role":"user","content":"Hello"}]}'`;
  assert.deepEqual(commands(sectionsOf({}, {}).use?.text), [
    "kubectl -n team port-forward service/mix 8000:8000",
    curl("http://localhost:8000", "mix"),
    "enodia status mix -n team",
  ]);
  const spec = {
    model: { uri: "pvc://m/x", servedName: "big" },
    service: { port: 8443 },
    gateway: { tls: { secretRef: { name: "cert" } }, apiKeySecretRef: { name: "keys", key: "key" } },
  };
  const address = { url: "https://mix.team.svc:8443" };
  const [forward, ask] = commands(sectionsOf(spec, { address }).use?.text);
  assert.equal(forward, "kubectl -n team port-forward service/mix 8443:8443");
  assert.equal(ask, curl("https://localhost:8443", "big", ' -H "authorization: Bearer $KEY"'));
});
