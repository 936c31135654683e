// A run of training as its user sees it: text in, a model that serving opens out; stopped and gone on with it has the bits of a
// straight run; how many micro-batches are worked on at once changes no bits; and bad input is refused by field and remedy.
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runSettings, tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { gradientsAt, openLoneRank } from "../../../test/kit/training/training-ranks.ts";
import { createTraining } from "../../compute/open-training.ts";
import { openModel } from "../../engine/thread/open.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { openCorpus } from "../data/corpus.ts";
import { importText } from "../data/import-text.ts";
import { layoutOf } from "../model/layout.ts";
import { optimizerSettings } from "../optimizers/index.ts";
import { parseRecipes } from "../recipes/index.ts";
import { trainWorlds } from "../worlds/together.ts";
import { train } from "./run.ts";
import { runStep, type StepReport } from "./run-step.ts";
import type { TrainSettings } from "./train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-train-"));
after(() => rmSync(folder, { recursive: true }));

const text = join(folder, "text");
mkdirSync(text);
writeFileSync(join(text, "a.txt"), "Experts are chosen by a router. ".repeat(40));
const lines = Array.from({ length: 30 }, (_, i) => JSON.stringify({ text: `The row of token ${i} goes to expert ${(7 * i) % 4}.` }));
writeFileSync(join(text, "b.jsonl"), `${lines.join("\n")}\n\n`);
const data = join(folder, "data");
const index = await importText({ from: [text], model: tinyModel.dir, out: data, overwrite: false });

const settings: TrainSettings = {
  ...runSettings,
  data,
  validation: data,
  out: join(folder, "straight"),
  schedule: { name: "cosine", rate: 5e-3, warmup: 2, steps: 8, floor: 0.1 },
  optimizer: optimizerSettings("adamw", {}),
  checkpoint: { everySteps: 3, keep: 2 },
};

async function otherData(name: string): Promise<string> {
  const [from, out] = [join(folder, `${name}-text`), join(folder, `${name}-data`)];
  mkdirSync(from);
  writeFileSync(join(from, "a.txt"), "Another text altogether. ".repeat(60));
  await importText({ from: [from], model: tinyModel.dir, out, overwrite: false });
  return out;
}

interface Seen {
  readonly steps: StepReport[];
  readonly validation: number[];
}

async function run(given: TrainSettings, stopAfter = Number.POSITIVE_INFINITY) {
  const seen: Seen = { steps: [], validation: [] };
  const end = await train(given, {
    now: () => 0,
    stopped: () => (seen.steps.at(-1)?.step ?? 0) >= stopAfter,
    onStart() {},
    onStep: (report) => void seen.steps.push(report),
    onValidation: ({ loss }) => void seen.validation.push(loss),
  });
  return { seen, end };
}

const digestOf = (out: string): string =>
  (JSON.parse(readFileSync(join(out, "store", "expert-index.json"), "utf8")) as { modelDigest: string }).modelDigest;

const straight = await run(settings);

test("text becomes documents of the model's tokens, each with the token that ends a text", () => {
  const tokens = new Uint16Array(new Uint8Array(readFileSync(join(data, "tokens.bin"))).buffer);
  const starts = new BigUint64Array(new Uint8Array(readFileSync(join(data, "documents.idx"))).buffer);
  assert.equal(index.documents, 31);
  assert.equal(tokens.length, index.tokens);
  assert.equal(starts.length, index.documents);
  for (const start of starts.slice(1)) assert.equal(tokens[Number(start) - 1], 2);
});

test("a run learns, and tells its loss on other data", () => {
  const { steps, validation } = straight.seen;
  assert.equal(steps.length, 8);
  assert.ok(steps.at(-1)!.loss < 0.95 * steps[0]!.loss, `${steps[0]!.loss} -> ${steps.at(-1)!.loss}`);
  assert.equal(validation.length, 3);
  assert.ok(validation.at(-1)! < validation[0]!);
});

test("serving opens the result, and the folder holds the same tensors", async () => {
  const { store, folder: exported } = straight.end;
  const model = await openModel({ storeDir: store!, backend: "cpu", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 });
  const checkpoint = await openCheckpoint(exported!);
  try {
    const stored = await model.store.readDense("lm_head.weight");
    assert.deepEqual(stored.data, await checkpoint.read("lm_head.weight"));
    const unit = model.store.decodeUnit(await model.store.readUnit(1, 3, "f32"), "f32", 1, 3);
    assert.deepEqual(unit.w2!.data, await checkpoint.read("model.layers.1.block_sparse_moe.experts.3.w2.weight"));
  } finally {
    await checkpoint.close();
    await model.close();
  }
});

for (const stopAfter of [0, 1, 3, 5]) {
  test(`stopped after step ${stopAfter} and gone on with, a run has the bits of a straight one`, async () => {
    const given = { ...settings, out: join(folder, `stopped-${stopAfter}`) };
    const first = await run(given, stopAfter);
    assert.equal(first.end.step, stopAfter);
    assert.equal(first.end.store, undefined);
    const second = await run(given);
    assert.deepEqual([...first.seen.steps, ...second.seen.steps], straight.seen.steps);
    assert.equal(digestOf(given.out), digestOf(settings.out));
    const metrics = readFileSync(join(given.out, "metrics.jsonl"), "utf8");
    assert.equal(metrics, readFileSync(join(settings.out, "metrics.jsonl"), "utf8"));
  });
}

test("a finished result is found again without its checkpoints, and nothing trains over it", async () => {
  const given = { ...settings, out: join(folder, "finished") };
  await run(given);
  rmSync(join(given.out, "checkpoints"), { recursive: true });
  const again = await run(given);
  const { store, folder: exported, step } = again.end;
  assert.deepEqual([again.seen.steps, step, store, exported], [[], 8, join(given.out, "store"), join(given.out, "huggingface")]);
  const changes = {
    codecs: ["f16"] as const,
    seed: 9,
    clip: 2,
    data: await otherData("other"),
    schedule: { ...settings.schedule, steps: 9 },
  };
  for (const [name, value] of Object.entries(changes))
    await assert.rejects(run({ ...given, [name]: value }), {
      code: "BadCheckpoint",
      message: /finished\.json: was made with .*another --out/,
    });
  assert.equal(digestOf(given.out), digestOf(settings.out));
  writeFileSync(join(given.out, "finished.json"), "{}");
  await assert.rejects(run(given), { code: "BadCheckpoint", message: /finished\.json: .*remove it/ });
  rmSync(join(given.out, "store"), { recursive: true });
  assert.equal((await run(given)).seen.steps.length, 8, "a result that was removed is made again");
});

test("worlds that met find their one result again, each without data of the others", async () => {
  const given = {
    ...settings,
    out: join(folder, "met"),
    recipes: parseRecipes({ local: "fedavg:4" }),
    checkpoint: { everySteps: 4, keep: 1 },
  };
  const made: number[] = [];
  const ports = { now: () => 0, stopped: () => false, onStart() {}, onStep: () => void made.push(1), onValidation() {} };
  const worlds = [data, await otherData("world")];
  await trainWorlds(given, worlds, () => ports);
  assert.equal(made.length, 16);
  for (const world of [0, 1]) rmSync(join(given.out, `world-${world}`, "checkpoints"), { recursive: true });
  const { store } = await trainWorlds(given, worlds, () => ports);
  assert.deepEqual([made.length, store], [16, join(given.out, "store")]);
});

test("by a constant rate a finished run can be gone on with, and not back", async () => {
  const schedule = { ...settings.schedule, name: "constant" as const, floor: 0 };
  const of = (steps: number) => ({ ...settings, out: join(folder, "longer"), schedule: { ...schedule, steps } });
  await run(of(2));
  assert.equal((await run(of(3))).seen.steps.length, 1);
  rmSync(join(of(3).out, "checkpoints"), { recursive: true });
  await assert.rejects(run(of(2)), { code: "BadCheckpoint", message: /is of step 3, and --steps is 2/ });
});

test("checkpoints beyond the newest two are dropped; one without a manifest is none", async () => {
  const checkpoints = join(settings.out, "checkpoints");
  assert.deepEqual(readdirSync(checkpoints).toSorted(), ["step-00000006", "step-00000008"]);
  const given = { ...settings, out: join(folder, "torn") };
  await run(given, 3);
  mkdirSync(join(given.out, "checkpoints", "step-00000005"));
  writeFileSync(join(given.out, "checkpoints", "step-00000005", "embed.bin"), "half");
  await run(given);
  assert.equal(digestOf(given.out), digestOf(settings.out));
});

test("a checkpoint with a changed byte, and one of other settings, are refused by name", async () => {
  const given = { ...settings, out: join(folder, "changed") };
  await run(given, 3);
  await assert.rejects(run({ ...given, clip: 2 }), { code: "BadCheckpoint", message: /was made with clip 1, this run has 2/ });
  await assert.rejects(run({ ...given, threads: 2 }), { code: "BadCheckpoint", message: /was made with threads 1, this run has 2/ });
  const file = join(given.out, "checkpoints", "step-00000003", "layer-0001.bin");
  const bytes = readFileSync(file);
  bytes[5000] = bytes[5000]! ^ 1;
  writeFileSync(file, bytes);
  await assert.rejects(run(given), {
    code: "BadCheckpoint",
    message: /layer-0001\.bin: unit 0 is not what was written; remove the folder/,
  });
});

const tied = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;

for (const tie of [false, true]) {
  test(`micro-batches one by one, by two and all at once give the same bits; other shares do not${tie ? ", with a tied head" : ""}`, async () => {
    const program = programOf({ ...tied, tie_word_embeddings: tie });
    const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
    const parameters = gaussian(3, layout.floats, 0.1);
    const backend = await createTraining({ threads: 1 });
    const microBatches = [1, 2, 3, 4].map((seed) => ({
      inputs: randomIds(seed, 24, program.vocab).data as Int32Array,
      targets: randomIds(seed + 10, 24, program.vocab).data as Int32Array,
    }));
    const gradientsOf = async (microBatchesAtOnce: number, given = microBatches): Promise<Float32Array> => {
      const lone = { program, layout, microBatches: given, sequenceLength: 12, microBatchesAtOnce };
      return (await gradientsAt(await openLoneRank(backend, lone), lone, parameters)).gradients;
    };
    try {
      const one = await gradientsOf(1);
      assert.deepEqual(await gradientsOf(4), one);
      assert.deepEqual(await gradientsOf(2), one);
      assert.notDeepEqual(await gradientsOf(1, microBatches.toReversed()), one, "the order of micro-batches counts, so this test can fail");
    } finally {
      await backend.close();
    }
  });
}

const bad: Record<string, { readonly settings: Partial<TrainSettings>; readonly code: string; readonly message: RegExp }> = {
  "micro-batches that are no power of two": {
    settings: { microBatches: 3 },
    code: "BadOption",
    message: /--micro-batches is 3; it must be a power of two/,
  },
  "sequences that micro-batches do not divide": {
    settings: { sequences: 5 },
    code: "BadOption",
    message: /--sequences is 5; .*multiple of --micro-batches/,
  },
  "a sequence beyond the model's context": {
    settings: { sequenceLength: 1024 },
    code: "BadOption",
    message: /--sequence-length is 1024; it must be a whole number from 2 to 512/,
  },
  "a rate of nothing": {
    settings: { schedule: { ...settings.schedule, rate: 0 } },
    code: "BadOption",
    message: /--learning-rate is 0/,
  },
  "no data there": { settings: { data: text }, code: "BadData", message: /index\.json: not found/ },
  "data shorter than a sequence": { settings: { data: join(folder, "short") }, code: "BadData", message: /make no sequence of 16/ },
  "a token beyond the vocabulary": {
    settings: { data: join(folder, "beyond") },
    code: "BadData",
    message: /is 9999, the model's vocabulary/,
  },
  "data of another tokenizer": {
    settings: { data: join(folder, "other") },
    code: "BadData",
    message: /tokenizerDigest is not that of the model/,
  },
  "data that was cut": {
    settings: { data: join(folder, "cut") },
    code: "BadData",
    message: /tokens\.bin: has \d+ bytes, its index\.json says/,
  },
};

await writeCorpus(join(folder, "short"), [1, 2, 3]);
await writeCorpus(join(folder, "beyond"), new Array<number>(200).fill(9999));
for (const name of ["other", "cut"]) await writeCorpus(join(folder, name), new Array<number>(200).fill(1));
appendFileSync(join(folder, "cut", "tokens.bin"), "x");
const otherIndex = join(folder, "other", "index.json");
writeFileSync(
  otherIndex,
  readFileSync(otherIndex, "utf8")
    .replace(/"tokenizerDigest":"./, '"tokenizerDigest":"_')
    .replace('"_', '"0'),
);

for (const [name, { settings: wrong, code, message }] of Object.entries(bad)) {
  test(`${name}: refused by field and remedy`, async () => {
    await assert.rejects(run({ ...settings, ...wrong, out: join(folder, "refused") }), { code, message });
  });
}

test("data that is refused leaves no file open", { skip: process.platform !== "linux" }, async () => {
  const dir = join(folder, "cut");
  const open = (): number => {
    const found = readdirSync("/proc/self/fd").filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).startsWith(dir);
      } catch {
        return false; // the folder's own, which is closed by now
      }
    });
    return found.length;
  };
  const wanted = { vocab: tinyModel.vocab, tokenizerDigest: index.tokenizerDigest, sequenceLength: 16 };
  await assert.rejects(openCorpus(dir, wanted), { code: "BadData" });
  assert.equal(open(), 0);
  const corpus = await openCorpus(data, wanted);
  await corpus.close();
});

test("a loss that is no number ends the run with step, micro-batch and documents", async () => {
  const program = programOf(tied);
  const layout = layoutOf(program, () => ({}));
  const wanted = { vocab: program.vocab, tokenizerDigest: index.tokenizerDigest, sequenceLength: settings.sequenceLength };
  const corpus = await openCorpus(data, wanted);
  const backend = await createTraining({ threads: 1 });
  const { sequences, microBatches, sequenceLength } = settings;
  const rows = (sequences / microBatches) * sequenceLength;
  const blank = Array.from({ length: microBatches }, () => ({ inputs: new Int32Array(rows), targets: new Int32Array(rows) }));
  const rank = await openLoneRank(backend, { program, layout, microBatches: blank, sequenceLength });
  rank.state.load(new Float32Array(layout.floats).fill(Number.NaN));
  try {
    await assert.rejects(
      runStep({ settings, rank, corpus, validation: undefined }, 5, () => false),
      {
        code: "NonFiniteLoss",
        message: /^step 5: the loss of micro-batch 0 is not finite \(documents \d+-\d+, \d+-\d+\); lower --learning-rate/,
      },
    );
  } finally {
    await backend.close();
    await corpus.close();
  }
});

const unreadable: Record<string, { readonly name: string; readonly text: string; readonly message: RegExp }> = {
  "a line that is no JSON": { name: "x.jsonl", text: '{"text": "a"}\n{', message: /x\.jsonl:2: is not JSON/ },
  "a line without text": { name: "x.jsonl", text: '{"body": "a"}', message: /x\.jsonl:1: field text: a string was expected/ },
  "no text at all": { name: "x.txt", text: "", message: /holds no text/ },
  "another kind of file": { name: "x.csv", text: "a", message: /is no \.txt or \.jsonl file/ },
};

for (const [name, { name: file, text: content, message }] of Object.entries(unreadable)) {
  test(`import of ${name}: refused by place and remedy`, async () => {
    const path = join(mkdtempSync(join(folder, "import-")), file);
    writeFileSync(path, content);
    await assert.rejects(importText({ from: [path], model: tinyModel.dir, out: `${path}-data`, overwrite: false }), {
      code: "BadData",
      message,
    });
  });
}

test("import replaces nothing that is not token data", async () => {
  const options = { from: [text], model: tinyModel.dir, overwrite: true };
  await assert.rejects(importText({ ...options, out: text }), { code: "AlreadyExists" });
  await assert.rejects(importText({ ...options, out: data, overwrite: false }), { code: "AlreadyExists" });
  assert.deepEqual(await importText({ ...options, out: data }), index);
});
