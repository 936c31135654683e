// A run goes on only as the run that it was: on the same weights, engine and instructions, never backwards, and past a torn line of its
// metrics; and what its end would refuse is refused before its first step.
import assert from "node:assert/strict";
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { CodecName } from "../../../crds/names.ts";
import { runSettings, tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { importMoe } from "../../modelstore/import-moe.ts";
import { importText } from "../data/import-text.ts";
import { train } from "./run.ts";
import type { TrainSettings } from "./train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-refused-"));
after(() => rmSync(folder, { recursive: true }));
const data = join(folder, "data");
const ids = Array.from({ length: 200 }, (_, i) => (7 * i) % tinyModel.vocab);
await writeCorpus(data, ids);

const settings: Omit<TrainSettings, "out"> = {
  ...runSettings,
  init: "checkpoint",
  data,
  sequences: 2,
  microBatches: 1,
};
const upTo = (steps: number): Pick<TrainSettings, "schedule"> => ({ schedule: { ...settings.schedule, steps } });
const outOf = (name: string): string => join(folder, "runs", name);

/** The steps made, and where the weights were from. */
async function run(name: string, changed: Partial<TrainSettings> = {}) {
  const seen = { steps: [] as number[], weights: "" };
  const given = { ...settings, out: outOf(name), ...changed };
  await train(given, {
    now: () => 0,
    stopped: () => false,
    onStart: ({ weights }) => {
      seen.weights = weights;
    },
    onStep: ({ step }) => void seen.steps.push(step),
    onValidation() {},
  });
  return seen;
}

/** Refused before any step. */
async function refused(name: string, changed: Partial<TrainSettings>, error: { readonly code: string; readonly message: RegExp }) {
  const steps: number[] = [];
  const given = { ...settings, out: outOf(name), ...changed };
  const ports = { now: () => 0, stopped: () => false, onStart() {}, onStep: ({ step }: { step: number }) => void steps.push(step) };
  await assert.rejects(train(given, { ...ports, onValidation() {} }), error);
  assert.deepEqual(steps, []);
}

async function storeOf(name: string, from: string, codecs: readonly CodecName[]): Promise<string> {
  const out = join(folder, "stores", name);
  await importMoe({ from, out, codecs, overwrite: false }, () => undefined);
  return out;
}

/** The tiny model with one weight that differs: its files have the same sizes and headers. */
const tuned = join(folder, "tuned");
cpSync(tinyModel.dir, tuned, { recursive: true });
const weights = readFileSync(join(tuned, "model.safetensors"));
weights.writeFloatLE(0.5, weights.length - 4);
writeFileSync(join(tuned, "model.safetensors"), weights);

test("a run does not go on with another engine or other instructions", async () => {
  await run("numerics", upTo(1));
  const path = join(outOf("numerics"), "checkpoints", "step-00000001", "manifest.json");
  const manifest = JSON.parse(readFileSync(path, "utf8")) as { identity: Record<string, string> };
  assert.match(manifest.identity.numerics!, /^onnxruntime \d\S* \S/);
  manifest.identity.numerics = "onnxruntime 1.0.0 avx2-of-another";
  writeFileSync(path, JSON.stringify(manifest));
  await refused(
    "numerics",
    {},
    {
      code: "OtherNumerics",
      message: /numerics onnxruntime 1\.0\.0 avx2-of-another, this machine has onnxruntime .*; go on where it began, .*nodeSelector/,
    },
  );
});

test("a run does not go on with the weights of another model, whatever they come in", async () => {
  const other = { code: "BadCheckpoint", message: /was made with weights [0-9a-f]{64}.*, this run has [0-9a-f]{64}.*; give the same/ };
  await run("folder", upTo(1));
  await refused("folder", { model: tuned }, other);
  assert.deepEqual((await run("folder")).steps, [2]);
  const [store, tunedStore] = [await storeOf("one", tinyModel.dir, ["f32", "q8_0"]), await storeOf("two", tuned, ["f32", "q8_0"])];
  await run("store", { model: store, ...upTo(1) });
  await refused("store", { model: tunedStore }, other);
  await refused("store", { model: store, initCodec: "q8_0" }, other);
  assert.deepEqual((await run("store", { model: store })).steps, [2]);
});

test("a run starts from the most exact experts of a store, and says so; from four bits only where it is asked to", async () => {
  const eight = await storeOf("eight", tinyModel.dir, ["iq4_nl", "q8_0"]);
  assert.equal((await run("eight", { model: eight })).weights, "weights of a model store, experts in q8_0");
  const four = await storeOf("four", tinyModel.dir, ["q4_0"]);
  await refused(
    "four",
    { model: four },
    { code: "BadOption", message: /experts in q4_0 alone, .*; import .* --codec f32, or pass --init-codec q4_0/ },
  );
  assert.equal((await run("four", { model: four, initCodec: "q4_0" })).weights, "weights of a model store, experts in q4_0");
  await refused("none", { model: four, initCodec: "f32" }, { code: "BadOption", message: /--init-codec is f32; .* has experts in q4_0/ });
  await refused("none", { initCodec: "f32" }, { code: "BadOption", message: /--init-codec is f32, which only .* a model store have/ });
});

test("a run goes on past a line of metrics that was half written", async () => {
  await run("torn", upTo(1));
  const path = join(outOf("torn"), "metrics.jsonl");
  const before = readFileSync(path, "utf8");
  appendFileSync(path, '{"step":2,"lo');
  assert.deepEqual((await run("torn")).steps, [2]);
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  assert.equal(`${lines[0]}\n`, before);
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as { step: number }).step),
    [1, 2],
  );
});

for (const name of ["store", "huggingface"]) {
  test(`a folder of somebody else where ${name}/ will be written is refused before the first step`, async () => {
    const own = join(outOf(`target-${name}`), name);
    mkdirSync(own, { recursive: true });
    writeFileSync(join(own, "thesis.txt"), "text");
    await refused(`target-${name}`, {}, { code: "NotReplaceable", message: /it holds "thesis.txt"/ });
  });
}

test("codecs that cannot store the result are refused before the first step", async () => {
  const uneven = join(folder, "uneven");
  cpSync(tinyModel.dir, uneven, { recursive: true });
  const config = JSON.parse(readFileSync(join(uneven, "config.json"), "utf8")) as object;
  writeFileSync(join(uneven, "config.json"), JSON.stringify({ ...config, intermediate_size: 100 }));
  const random = { model: uneven, init: "random" } as const;
  await refused(
    "codec",
    { ...random, codecs: ["f32", "q4_0"] },
    { code: "UnsupportedShape", message: /q4_0 needs rows of a multiple of 32/ },
  );
  await refused("codec", { codecs: ["source"] }, { code: "UnsupportedShape", message: /codec source .*; use another --codec/ });
});

test("fewer steps than a checkpoint has are refused, since the result would be of more", async () => {
  await run("fewer", upTo(2));
  await refused("fewer", upTo(1), { code: "BadOption", message: /--steps is 1, and the newest checkpoint .* is of step 2; give as many/ });
});

test("an import that was killed before its index had its name can be done again", async () => {
  const out = join(folder, "killed");
  const text = join(folder, "text.txt");
  writeFileSync(text, "Experts are chosen by a router.");
  const options = { from: [text], model: tinyModel.dir, out, overwrite: true };
  const index = await importText(options);
  rmSync(join(out, "index.json"));
  writeFileSync(join(out, "index.json.tmp"), "{");
  assert.deepEqual(await importText(options), index);
  writeFileSync(join(out, "index.json.tmp"), "{");
  const empty = join(folder, "empty.txt");
  writeFileSync(empty, "");
  await assert.rejects(importText({ ...options, from: [empty] }), { code: "BadData" });
  assert.throws(() => readFileSync(join(out, "index.json.tmp")), { code: "ENOENT" });
});
