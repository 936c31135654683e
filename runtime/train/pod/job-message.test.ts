// Errors of a run in the words of a job: fields that there are, URIs, and options of other commands left alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { moeTrainingJobSpecSchema } from "../../../crds/moe-training-job.ts";
import { type JsonObject, structuralSchema } from "../../../crds/openapi.ts";
import { fieldOf, jobMessage } from "./job-message.ts";

const reported: Record<string, string> = {
  "--sequence-length is 4096; it must be a whole number from 2 to 64":
    "spec.data.sequenceLength is 4096; it must be a whole number from 2 to 64",
  "--init-codec is f32; /claims/models/m has experts in q4_0": "spec.model.initCodec is f32; pvc://models/m has experts in q4_0",
  "was made with learning-rate 0.1, this run has 0.2; give the same, or another --out":
    "was made with spec.optimizer.learningRate 0.1, this run has 0.2; give the same, or another spec.output.uri",
  "import the model again with --codec f32, or pass --init-codec q4_0":
    "import the model again with --codec f32, or pass spec.model.initCodec q4_0",
  'import the text again with "--model" naming this model': 'import the text again with "--model" naming this model',
  "fssdp.memorySlots is 9000; it must be a whole number from 0 to 4096":
    "spec.fssdp.memorySlots is 9000; it must be a whole number from 0 to 4096",
  'give more memory, or take more spec.replicas, fssdp.rematerialize "AfterForward"':
    'give more spec.memoryPerRank, or take more spec.replicas, spec.fssdp.rematerialize "AfterForward"',
  "/home/claims/a and --strange stay": "/home/claims/a and --strange stay",
};
for (const [message, want] of Object.entries(reported))
  test(`"${message}" is told to the owner of a job`, () => assert.equal(jobMessage(message), want));

test("every field that an option is told as is one of the spec", () => {
  const schema = structuralSchema(moeTrainingJobSpecSchema, "spec");
  for (const field of Object.values(fieldOf).filter((word) => word.startsWith("spec."))) {
    let at: JsonObject | undefined = schema;
    for (const part of field.split(".").slice(1)) at = (at?.properties as Record<string, JsonObject> | undefined)?.[part];
    assert.ok(at, field);
  }
});
