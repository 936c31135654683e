import assert from "node:assert/strict";
import { test } from "node:test";
import { subjectOf } from "./log-subject.ts";
import { asksForJson } from "./output-flag.ts";

test("a name is that of a deployment, and job/NAME that of a training job, each with the label of its own pods", () => {
  assert.deepEqual([subjectOf(["moe"]).kind, subjectOf(["moe"]).label], ["MoEDeployment", "enodia.dev/deployment"]);
  const { kind, label, name } = subjectOf(["job/moe"]);
  assert.deepEqual([kind, label, name], ["MoETrainingJob", "enodia.dev/training-job", "moe"]);
  for (const words of [[], [""], ["job/"], ["pod/moe"], ["job/a/b"], ["moe", "other"]])
    assert.throws(() => subjectOf(words), /one NAME of a MoEDeployment is needed, or job\/NAME/, words.join(" "));
});

test("JSON is asked for by -o json, or by --json as before, and by nothing else", () => {
  assert.ok(asksForJson({ output: "json" }) && asksForJson({ json: true }) && asksForJson({ output: "json", json: true }));
  assert.ok(!asksForJson({}) && !asksForJson({ json: false }));
  assert.throws(() => asksForJson({ output: "yaml", json: true }), /-o yaml: the only other form than text is json/);
});
