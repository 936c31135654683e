import assert from "node:assert/strict";
import { test } from "node:test";
import { subjectOf } from "./log-subject.ts";
import { asksForJson } from "./options.ts";

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
