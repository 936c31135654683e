// Bad input of a job as its owner is told it: the pod ends with a code that another try does not mend, and a message that has the field of
// the spec and what to do, no option of the command line.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { parseTrainingEnd } from "../../../crds/training-report.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { begin, podSettings, podSpec } from "../../../test/kit/training/training-pods.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-refused-jobs-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const of = (name: string): string => join(folder, name);

const tokens = Array.from({ length: 400 }, (_, i) => (i * 37) % tinyModel.vocab);
await writeCorpus(of("tokens"), tokens);
await writeCorpus(of("beyond"), new Array<number>(400).fill(9999));
await writeCorpus(of("other-tokenizer"), tokens);
const index = join(of("other-tokenizer"), "index.json");
writeFileSync(
  index,
  readFileSync(index, "utf8").replace(/"tokenizerDigest":"[0-9a-f]/, (text) => `${text.slice(0, -1)}${text.endsWith("0") ? 1 : 0}`),
);
cpSync(tinyModel.dir, of("tuned"), { recursive: true });
const weights = readFileSync(join(of("tuned"), "model.safetensors"));
weights.writeFloatLE(0.5, weights.length - 4);
writeFileSync(join(of("tuned"), "model.safetensors"), weights);

interface Paths {
  readonly model?: string;
  readonly data?: string;
  readonly out?: string;
}

/** What a pod of the job leaves. */
async function endOf(name: string, change: object, { model = tinyModel.dir, data = "tokens", out = name }: Paths = {}) {
  const spec = podSpec({ steps: 2, batch: { sequences: 4, microBatches: 2 }, ...change });
  const settings = podSettings({ spec, endFile: of(`${name}.end`) });
  const run = (given: TrainSettings, ports: TrainPorts) => train({ ...given, model, data: of(data), out: of(out) }, ports);
  const trainer = await begin(settings, { run });
  await trainer.ended.catch(() => {});
  return parseTrainingEnd(readFileSync(settings.endFile, "utf8"));
}

const refused: Record<string, { readonly change?: object; readonly paths?: Paths; readonly code: string; readonly message: RegExp }> = {
  "data of another tokenizer": {
    paths: { data: "other-tokenizer" },
    code: "BadData",
    message: /index\.json: tokenizerDigest is not that of the model's tokenizer\.json; import the text again/,
  },
  "a token beyond the vocabulary": {
    paths: { data: "beyond" },
    code: "BadData",
    message: /tokens\.bin: token \d+ is 9999, the model's vocabulary has \d+; import the text again/,
  },
  "a step that no memory holds": {
    change: { batch: { sequences: 65_536, microBatches: 1 }, data: { uri: "pvc://data/tokens", sequenceLength: 512 } },
    code: "DoesNotFit",
    message:
      /^\d+ parameters x 8 bytes .* that layers keep of 1 micro-batch at once are [\d.]+ GB; the memory here is [\d.]+ GB.*; give more spec\.memoryPerRank, .*fewer spec\.batch\.microBatches, .*fewer spec\.batch\.sequences$/,
  },
  "a gate that is not over when the job is": {
    change: { gate: "dense-to-sparse:4:0.05:3" },
    code: "BadOption",
    message: /^spec\.gate is "dense-to-sparse:4:0\.05:3"; STEP must be at most spec\.steps \(2\), since the run ends/,
  },
  "adapters beside a model that has experts": {
    change: { adapters: "mixlora:4:2:4" },
    code: "UnsupportedModel",
    message: /architectures is "MixtralForCausalLM", supported: LlamaForCausalLM/,
  },
  "a checkpoint of another model": {
    paths: { model: of("tuned"), out: "kept" },
    code: "BadCheckpoint",
    message: /was made with weights [0-9a-f]{64}, this run has [0-9a-f]{64}; give the same, or another spec\.output\.uri/,
  },
};

test("the job whose checkpoint the others find is made", async () => {
  assert.equal((await endOf("first", {}, { out: "kept" }))?.outcome, "Complete");
});

for (const [name, { change = {}, paths, code, message }] of Object.entries(refused))
  test(`${name}: refused with the field and the remedy`, async () => {
    const end = await endOf(name.replaceAll(" ", "-"), change, paths);
    assert.deepEqual([end?.outcome, end?.code, end?.retry], ["Failed", code, false], end?.message);
    assert.match(end?.message ?? "", message);
    assert.doesNotMatch((end?.message ?? "").replace('with "--model"', ""), /--[a-z]/);
  });
