// The check of a job on real files: it says what ranks need, refuses where they would, with field and remedy, and writes its end alone.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import files from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { MoETrainingJobSpec } from "../../../crds/moe-training-job.ts";
import { endBytesMax, parseTrainingEnd, type TrainingEnd } from "../../../crds/training-report.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { podSpec } from "../../../test/kit/training/training-pods.ts";
import { rankBytes } from "../../placement/training/rank-bytes.ts";
import { checkRun } from "../loop/feasible.ts";
import { evenRanks, rankedModel } from "../loop/needs.ts";
import { train } from "../loop/run.ts";
import { openSource } from "../model/model-source.ts";
import { memoryProblem } from "../ranks/fits.ts";
import { trainedModel } from "../recipes/index.ts";
import { checkJob } from "./check-job.ts";
import { trainSettings } from "./job-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-check-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const of = (name: string): string => join(folder, name);

const tokens = Array.from({ length: 400 }, (_, i) => (i * 37) % tinyModel.vocab);
await writeCorpus(of("tokens"), tokens);
await writeCorpus(of("beyond"), [...tokens.slice(0, 200), 9999, ...tokens.slice(201)]);
function changed(name: string, from: string, file: string, change: (text: string) => string): void {
  cpSync(from, of(name), { recursive: true });
  writeFileSync(join(of(name), file), change(readFileSync(join(from, file), "utf8")));
}
changed("other-tokenizer", of("tokens"), "index.json", (text) => text.replace(/"tokenizerDigest":"[0-9a-f]{4}/, '"tokenizerDigest":"0000'));
changed("larger", of("tokens"), "index.json", (text) => text.replace(/"vocab":\d+/, '"vocab":70000'));
changed("other-model", tinyModel.dir, "config.json", (text) => text.replace(/"rope_theta": *[\d.]+/, '"rope_theta": 5000.0'));
mkdirSync(of("nothing"));

const specOf = (change: object = {}): MoETrainingJobSpec => podSpec({ steps: 4, checkpoint: { everySteps: 2 }, ...change });

interface Asked {
  readonly model?: string;
  /** Of each world. */
  readonly data?: readonly string[];
  readonly out?: string;
  readonly ranks?: number;
  readonly minRanks?: number;
}
let ends = 0;
async function endOf(spec: MoETrainingJobSpec, asked: Asked = {}): Promise<TrainingEnd | undefined> {
  const { model = tinyModel.dir, data = ["tokens"], out = "none", ranks = 1, minRanks = 1 } = asked;
  const endFile = of(`end-${ends++}`);
  const outOf = (world: number, worlds: number): string => (worlds === 1 ? of(out) : join(of(out), `world-${world}`));
  await checkJob(
    { namespace: "ns", job: "j", ranks, minRanks, spec, endFile, logLevel: "silent" },
    {
      check: (given) => {
        const worlds = given.worlds.map((each, world) => {
          const folders = { model, data: of(data[world] ?? ""), out: outOf(world, given.worlds.length) };
          return { ...each, ...folders, ...(each.result !== undefined && { result: of(out) }) };
        });
        return checkRun({ ...given, worlds });
      },
    },
  );
  const text = readFileSync(endFile, "utf8");
  assert.ok(Buffer.byteLength(text) <= endBytesMax);
  return parseTrainingEnd(text);
}

test("a job that fits is told what its ranks need and have, and nothing is written", async () => {
  const end = await endOf(specOf(), { ranks: 3, minRanks: 2 });
  assert.equal(end?.outcome, "Fits", end?.message);
  assert.deepEqual(end?.sizes, { leastRanks: 1, alone: true });
  const part = String.raw`[\d.]+ GB`;
  const needs = String.raw`${part} \(${part} of parameters, gradients and adamw's state, ${part} of copies, .*, ${part} that layers keep\)`;
  assert.match(
    end?.message ?? "",
    new RegExp(`^each of 3 ranks needs at most ${needs}; spec\\.memoryPerRank is 1Gi; with spec\\.elasticity\\.minReplicas 2: ${needs}$`),
  );
  assert.equal(existsSync(of("none")), false);
});

test("it refuses where the ranks would, to the byte, whatever their number, and says which numbers fit", async () => {
  const settings = { ...trainSettings(specOf()), model: tinyModel.dir, data: of("tokens"), out: of("none") };
  const model = trainedModel(await openSource(tinyModel.dir), settings);
  const needs = (ranks: number): number => {
    const needed = rankedModel(settings, model, evenRanks(ranks));
    return Math.max(...needed.facts.node.map((_, rank) => rankBytes(memoryProblem(needed, rank)).all));
  };
  for (const ranks of [1, 2, 3, 4]) {
    const bytes = needs(ranks);
    const fits = await endOf(specOf({ memoryPerRank: `${bytes}` }), { ranks });
    assert.equal(fits?.outcome, "Fits", fits?.message);
    for (const other of [1, 2, 3, 4].filter((count) => count !== ranks && count > 1 && ranks > 1))
      assert.equal(other >= (fits?.sizes?.leastRanks ?? 5), needs(other) <= bytes, `${other} ranks with room for ${ranks}`);
    assert.equal(fits?.sizes?.alone, needs(1) <= bytes);
    const short = await endOf(specOf({ memoryPerRank: `${bytes - 1}` }), { ranks });
    assert.deepEqual([short?.outcome, short?.code, short?.retry], ["Failed", "DoesNotFit", false]);
    assert.match(
      short?.message ?? "",
      /\d+ parameters x 8 bytes .* are [\d.]+ GB; the memory here is [\d.]+ GB.*give more spec\.memoryPerRank/,
    );
  }
});

const refused: Record<string, { readonly change?: object; readonly asked?: Asked; readonly code: string; readonly message: RegExp }> = {
  "a model that is not there": { asked: { model: of("nothing") }, code: "ModelNotFound", message: /config\.json: not found/ },
  "data that is not there": { asked: { data: ["nothing"] }, code: "BadData", message: /index\.json: not found/ },
  "data of another tokenizer": {
    asked: { data: ["other-tokenizer"] },
    code: "BadData",
    message: /tokenizerDigest is not that of the model's tokenizer\.json/,
  },
  "data of a larger vocabulary": {
    asked: { data: ["larger"] },
    code: "BadData",
    message: /index\.json: vocab is 70000, the model has \d+; import/,
  },
  "a token beyond the vocabulary": {
    asked: { data: ["beyond"] },
    code: "BadData",
    message: /tokens\.bin: token 200 is 9999, the model's vocabulary has \d+; import the text again/,
  },
  "sequences that the model has no positions for": {
    change: { data: { uri: "pvc://data/tokens", sequenceLength: 1_000_000 } },
    code: "BadOption",
    message: /^spec\.data\.sequenceLength is 1000000; it must be a whole number from 2 to \d+$/,
  },
  "adapters beside a model that has experts": {
    change: { adapters: "mixlora:4:2:4" },
    code: "UnsupportedModel",
    message: /architectures is "MixtralForCausalLM", supported: LlamaForCausalLM/,
  },
  "more memory for moments than can be": {
    change: { optimizer: { memory: 1024 } },
    code: "BadOption",
    message: /^spec\.optimizer\.memory is 1024; it must be/,
  },
  "data of a second world that is not there": {
    change: { local: { recipe: "fedavg:2", data: ["pvc://data/b"] }, elasticity: { minReplicas: 2, maxReplicas: 2 }, replicas: 2 },
    asked: { data: ["tokens", "nothing"], ranks: 2 },
    code: "BadData",
    message: /nothing\/index\.json: not found/,
  },
};
for (const [name, { change = {}, asked, code, message }] of Object.entries(refused))
  test(`${name}: refused with the field and the remedy`, async () => {
    const end = await endOf(specOf(change), asked);
    assert.deepEqual([end?.outcome, end?.code, end?.retry], ["Failed", code, false], end?.message);
    assert.match(end?.message ?? "", message);
  });

test("worlds that meet have the memory of their own ranks, and start together", async () => {
  const local = { local: { recipe: "fedavg:2", data: ["pvc://data/b"] }, replicas: 3, elasticity: { minReplicas: 2, maxReplicas: 4 } };
  const end = await endOf(specOf(local), { data: ["tokens", "tokens"], ranks: 3, minRanks: 2 });
  assert.equal(end?.outcome, "Fits", end?.message);
  assert.match(end?.message ?? "", /^each of 3 ranks needs at most .*minReplicas 2: /);
});

test("where experts spawn it is the stage at hand that has to fit, and any number of ranks for the next", async () => {
  const spawn = { model: { uri: "pvc://models/tiny", init: "Random" }, spawn: { step: 2 } };
  const end = await endOf(specOf(spawn));
  assert.deepEqual([end?.outcome, end?.sizes], ["Fits", undefined], end?.message);
  const one = await endOf(specOf({ ...spawn, memoryPerRank: "2Ki" }));
  assert.equal(one?.code, "DoesNotFit");
});

test("the checkpoint of this job is gone on from, on whatever processor, and that of another is refused", async () => {
  const spec = specOf({ model: { uri: "pvc://models/tiny", init: "Random" } });
  const run = { ...trainSettings(spec), model: tinyModel.dir, data: of("tokens"), out: of("made") };
  await train(run, { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} });
  const path = join(of("made"), "checkpoints/step-00000004/manifest.json");
  const text = readFileSync(path, "utf8");
  writeFileSync(path, text.replace(/"numerics":"[^"]*"/, '"numerics":"of another"'));
  assert.equal((await endOf(spec, { out: "made" }))?.outcome, "Fits");
  const other = await endOf(spec, { out: "made", model: of("other-model") });
  assert.equal(other?.code, "BadCheckpoint", other?.message);
  assert.match(
    other?.message ?? "",
    /was made with spec\.model\.uri [0-9a-f]{64}, this run has [0-9a-f]{64}; give the same, or another spec\.output/,
  );
  const seed = await endOf(specOf({ model: { uri: "pvc://models/tiny", init: "Random" }, seed: 2 }), { out: "made" });
  assert.match(seed?.message ?? "", /was made with spec\.seed 1, this run has 2/);
  const fewer = await endOf(specOf({ model: { uri: "pvc://models/tiny", init: "Random" }, steps: 3 }), { out: "made" });
  assert.match(fewer?.message ?? "", /^spec\.steps is 3, and the newest checkpoint in .* is of step 4/);
  writeFileSync(path, text.slice(0, 100));
  assert.equal((await endOf(spec, { out: "made" }))?.code, "BadCheckpoint");
});

test("a checkpoint that pods drop while it is looked at is none that is bad: the newest then is", async (t) => {
  const spec = specOf({ model: { uri: "pvc://models/tiny", init: "Random" }, checkpoint: { everySteps: 2, keep: 2 } });
  const run = { ...trainSettings(spec), model: tinyModel.dir, data: of("tokens"), out: of("dropped") };
  await train(run, { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} });
  const { open } = files;
  const newest = join(of("dropped"), "checkpoints/step-00000004/manifest.json");
  const opens = (by: typeof open): void => {
    files.open = by;
    syncBuiltinESMExports();
  };
  t.after(() => opens(open));
  opens(async (path, ...rest) => {
    if (path === newest) rmSync(newest);
    return open(path, ...rest);
  });
  assert.equal((await endOf(spec, { out: "dropped" }))?.outcome, "Fits");
  assert.equal(existsSync(newest), false, "it was dropped");
  const other = specOf({ model: { uri: "pvc://models/tiny", init: "Random" }, seed: 2 });
  assert.equal((await endOf(other, { out: "dropped" }))?.code, "BadCheckpoint", "the one before was looked at");
});

test("what may pass is tried again", async () => {
  const spec = specOf();
  const end = of("away.end");
  const check = async () => {
    throw Object.assign(new Error("EIO: i/o error, read"), { code: "EIO" });
  };
  await checkJob({ namespace: "ns", job: "j", ranks: 1, minRanks: 1, spec, endFile: end, logLevel: "silent" }, { check });
  const { outcome, retry, message } = parseTrainingEnd(readFileSync(end, "utf8")) ?? {};
  assert.deepEqual([outcome, retry, message], ["Failed", true, "checking the job: EIO: i/o error, read"]);
});
