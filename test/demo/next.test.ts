// The endpoint that the demo prints is the Service, on a local cluster and on somebody's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { aimed, exitCode, type Machine, totalRow } from "./aims.ts";
import { nextLines } from "./next.ts";
import { type Times, timeRows } from "./serving/times.ts";
import { summaryLines } from "./view.ts";

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

const totals: Record<string, [seconds: number, machine: Machine, slow: boolean | undefined]> = {
  "warm, at the aim": [300, "warm", false],
  "warm, long": [300.1, "warm", true],
  "cold, at the aim": [600, "cold", false],
  "cold, long": [601, "cold", true],
  "somebody's own cluster": [9999, "unknown", undefined],
};
for (const [name, [seconds, machine, slow]] of Object.entries(totals))
  test(`the total: ${name}`, () => assert.equal(totalRow(seconds, machine).slow, slow));

test("a slow run in which every step held ends with 0, and says where it was slow", () => {
  const steps = [{ step: "Ask it", ok: true, seconds: 200, note: "3 tokens" }];
  const results = [...steps, aimed("Apply to Ready", 64, 30), aimed("Skewed load to balanced", 80, 90), totalRow(1020, "warm")];
  assert.equal(exitCode(results), 0);
  const lines = summaryLines(results);
  assert.match(lines.at(-1) ?? "", /Every step held\..* 2 times were longer than aimed, which fails nothing\./);
  assert.match(lines.find((line) => line.includes("Total")) ?? "", /1020\.0 s {2}aim: 5 min on a warm machine {2}.*slower than aimed/);
  assert.match(lines.find((line) => line.includes("Ready")) ?? "", /64\.0 s {2}aim: 30 s {2}.*slower than aimed/);
  assert.doesNotMatch(lines.find((line) => line.includes("Skewed")) ?? "", /slower/);
});

test("a step that did not hold is the exit code, however quick the run was", () => {
  const results = [{ step: "Ask it", ok: false, seconds: 1, note: "no answer" }, totalRow(200, "warm")];
  assert.equal(exitCode(results), 1);
  assert.match(summaryLines(results).at(-1) ?? "", /1 did not hold\./);
});

const slow = (times: Times): Record<string, boolean> => Object.fromEntries(timeRows(times).map(({ step, slow }) => [step, slow ?? false]));
const ready = "Apply to Ready";
const even = "Skewed load to balanced";

const cases: Record<string, [Times, Record<string, boolean>]> = {
  "warm, at every aim": [
    { machine: "warm", readySeconds: 30, balancedSeconds: 90 },
    { [ready]: false, [even]: false },
  ],
  "warm, Ready late": [
    { machine: "warm", readySeconds: 30.1, balancedSeconds: 40 },
    { [ready]: true, [even]: false },
  ],
  "warm, balanced late": [
    { machine: "warm", readySeconds: 3, balancedSeconds: 90.1 },
    { [ready]: false, [even]: true },
  ],
  "warm, never Ready": [{ machine: "warm" }, {}],
  "cold, Ready has no aim": [{ machine: "cold", readySeconds: 90, balancedSeconds: 20 }, { [even]: false }],
  "on somebody's own cluster nothing has an aim": [{ machine: "unknown", readySeconds: 999, balancedSeconds: 999 }, {}],
};
for (const [name, [times, want]] of Object.entries(cases)) test(`times of the demo: ${name}`, () => assert.deepEqual(slow(times), want));
