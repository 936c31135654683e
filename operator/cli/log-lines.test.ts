import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../runtime/observe/log.ts";
import { byTime, concerns, lineCharsMax, lineText, matches, parseLine } from "./log-lines.ts";
import { subjectOf } from "./log-subject.ts";
import { asksForJson } from "./options.ts";

const at = "2026-03-01T10:00:00.123456789Z";

/** A line as the runtime's own log writes it and the kubelet hands it out. */
function logged(fields: Record<string, unknown>, message: string, level: "info" | "warn" = "warn"): string {
  const lines: string[] = [];
  createLog({ level: "debug", name: "gateway", write: (text) => void lines.push(text) })[level](fields, message);
  return `${at} ${lines.join("").trim()}`;
}
const parsed = (line: string) => {
  const found = parseLine("gw-0", line);
  assert.ok(found);
  return found;
};

test("logs: a line of ours has its level, message and fields, and an error with what it came from", () => {
  const err = new Error("request failed", { cause: new Error("socket closed") });
  const line = parsed(logged({ requestId: "r-1", rank: 2, tokens: 7, err }, "request goes on at another worker"));
  assert.equal(
    lineText(line, 6),
    "10:00:00.123  WARN   gw-0    request goes on at another worker  requestId=r-1 tokens=7  error: request failed <- socket closed",
  );
});

test("logs: a line that is not ours is shown as it is, on one line and without codes that steer a terminal", () => {
  assert.equal(
    lineText(parsed(`${at} \x1b[31mggml_abort: out\tof memory`), 4),
    "10:00:00.123         gw-0   [31mggml_abort: out of memory",
  );
  assert.equal(parsed(`${at} {"level":"odd"}`).level, undefined);
  assert.equal(parsed(`${at} {broken`).text, "{broken");
});

test("logs: a line is bounded, and one without a time is none", () => {
  assert.ok(parsed(`${at} ${"x".repeat(2 * lineCharsMax)}`).text.length < lineCharsMax);
  assert.equal(parseLine("gw-0", "x"), undefined);
});

test("logs: what is filter: by request, wherever its id stands, and by level", () => {
  const line = parsed(logged({ requestId: "r-1", answerId: "chatcmpl-2" }, "x"));
  assert.ok(matches(line, { request: "r-1" }) && matches(line, { request: "chatcmpl-2" }) && !matches(line, { request: "r-2" }));
  assert.ok(matches(parsed(`${at} crash in r-1`), { request: "r-1" }));
  assert.ok(matches(line, { level: "warn" }) && !matches(line, { level: "error" }));
  assert.ok(!matches(parsed(`${at} plain`), { level: "debug" }) && matches(parsed(`${at} plain`), {}));
});

test("logs: of the operator's lines those of another deployment are left out", () => {
  const of = (fields: Record<string, unknown>, word = "moe") => concerns(parsed(logged(fields, "x")), "ns", subjectOf(word));
  assert.deepEqual(
    [of({ key: "ns/moe" }), of({ key: "ns/other" }), of({ deployment: "moe" }), of({ deployment: "other" }), of({})],
    [true, false, true, false, true],
  );
  // A job of the same name is another object.
  const [own, other] = ["moetrainingjob", "moedeployment"].map((controller) => of({ controller, key: "ns/moe" }, "job/moe"));
  assert.deepEqual([own, other, of({ deployment: "moe" }, "job/moe"), of({}, "job/moe")], [true, false, false, true]);
});

test("logs: lines of pods are merged by the kubelet's time, and those of one time stay in their order", () => {
  const lines = [`2026-03-01T10:00:02Z b`, `2026-03-01T10:00:01Z a`, `2026-03-01T10:00:02Z c`].map(parsed);
  assert.deepEqual(
    lines.sort(byTime).map(({ text }) => text),
    ["a", "b", "c"],
  );
});

test("a name is that of a deployment, and job/NAME that of a training job, each with the label of its own pods", () => {
  assert.deepEqual([subjectOf("moe").kind, subjectOf("moe").label], ["MoEDeployment", "enodia.dev/deployment"]);
  const { kind, label, name } = subjectOf("job/moe");
  assert.deepEqual([kind, label, name], ["MoETrainingJob", "enodia.dev/training-job", "moe"]);
  for (const word of ["", "job/", "pod/moe", "job/a/b"])
    assert.throws(() => subjectOf(word), /NAME of a MoEDeployment is needed, or job\/NAME/, word);
});

test("JSON is requested by -o json, or by --json as before", () => {
  assert.ok(asksForJson({ output: "json", json: false }) && asksForJson({ json: true }) && asksForJson({ output: "json", json: true }));
  assert.ok(!asksForJson({ json: false }));
});
