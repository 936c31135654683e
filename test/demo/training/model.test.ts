// The demo's model is one that trains: its tokenizer has one token a byte, and gives back any text.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { parseMoETrainingJob, trainingProblems } from "../../../crds/moe-training-job.ts";
import { loadTokenizer } from "../../../runtime/text/tokenizer.ts";
import { openSource } from "../../../runtime/train/model/model-source.ts";
import { root } from "../../kit/deployment/product.ts";
import { config, modelFiles } from "./model.ts";

test("a token is a byte, texts come back whole, and the model is one of a family", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-demo-model-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const [name, content] of Object.entries(modelFiles)) writeFileSync(join(folder, name), content);
  const tokenizer = await loadTokenizer(folder);
  const text = "A rank’s rows:\n\t100 % — done\u0000";
  const ids = tokenizer.encode(text);
  assert.equal(ids.length, Buffer.byteLength(text));
  assert.equal(tokenizer.decode(ids), text);
  assert.deepEqual(tokenizer.eosIds, [256]);
  const { program } = await openSource(folder);
  assert.deepEqual([program.vocab, program.layers.length], [257, config.num_hidden_layers]);
});

test("the sample of the demo is a job that is trained, with as many micro-batches as it ever has ranks", () => {
  const sample = parse(readFileSync(join(root, "crds/samples/guides.yaml"), "utf8"));
  const job = parseMoETrainingJob({ ...sample, metadata: { ...sample.metadata, namespace: "n", uid: "u" } });
  assert.deepEqual(trainingProblems(job.spec), []);
});
