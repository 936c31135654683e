// The endpoint that the demo prints is the Service, on a local cluster and on somebody's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { nextLines } from "./next.ts";

const request = { path: "/v1/chat/completions", body: { model: "smol-moe" } };
const where = { namespace: "demo", model: "smol-moe", kubectlFlags: ["--context", "kind-a", "--namespace", "demo"] };
const left = { ...where, request, asked: [], more: [] };
const endpoint = (lines: readonly string[]) => lines.map((line) => /ENDPOINT=(\S+)/.exec(line)?.[1]).find((url) => url !== undefined);

test("on a local cluster the endpoint is the Service's own address, and a curl line asks it", () => {
  const lines = nextLines({ ...left, local: "enodia", url: "http://10.251.4.7:8000" });
  assert.equal(endpoint(lines), "http://10.251.4.7:8000");
  const curl = lines.find((line) => line.includes("curl")) ?? "";
  const [, body = ""] = /-d '(.*)'$/.exec(curl) ?? [];
  assert.match(curl, /"\$ENDPOINT\/v1\/chat\/completions"/);
  assert.equal(JSON.parse(body).model, "smol-moe");
  assert.match(lines.at(-1) ?? "", /cluster -- down --name enodia/);
});

test("on somebody's own cluster it is the Service through the API server, after the proxy that opens it", () => {
  const lines = nextLines({ ...left, local: undefined, url: "http://127.0.0.1:40123/gone/with/the/demo" });
  assert.equal(endpoint(lines), "http://127.0.0.1:8001/api/v1/namespaces/demo/services/smol-moe:8000/proxy");
  const proxy = lines.indexOf("  kubectl --context kind-a --namespace demo proxy --port=8001 &");
  assert.ok(proxy > 0 && proxy < lines.findIndex((line) => line.includes("ENDPOINT=")));
  assert.doesNotMatch(lines.join("\n"), /40123|down --name/);
});

test("a deployment that did not come to be has no endpoint", () => {
  assert.equal(endpoint(nextLines({ ...left, local: "enodia", url: undefined })), undefined);
});
