// Models that were trained apart on parts of a task, assembled into one Mixture of Experts and trained on, do better on the whole of it
// than each of them, and than one that had as many steps in one piece; better still where their attentions are kept as experts.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chainsOf, echoesOf, runSettings, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { assemble } from "../../modelstore/upcycle/assemble.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { type RunEnd, train } from "./run.ts";
import type { TrainSettings } from "./train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-branches-"));
after(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);

const model = writeModel(at("model"), "llama", { rope_parameters: { rope_type: "default", rope_theta: 1e4 }, initializer_range: 0.1 });
const quiet = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };

interface Task {
  readonly name: string;
  readonly parts: readonly number[];
  readonly tokens: (parts: readonly number[], tokens: number, seed: number) => number[];
  /** Learning rate. */
  readonly rate: number;
  /** Of a branch. */
  readonly steps: number;
}

const chains: Task = { name: "chains", parts: [3, 7, 11], tokens: chainsOf, rate: 3e-3, steps: 60 };
const echoes: Task = { name: "echoes", parts: [2, 3, 5], tokens: echoesOf, rate: 1e-2, steps: 30 };

/** A run whose loss on the whole task is told at its end. */
async function run({ name: task, rate }: Task, name: string, changed: Partial<TrainSettings>, steps: number): Promise<RunEnd> {
  const settings = {
    ...runSettings,
    init: "checkpoint",
    validation: at(`${task}-other`),
    out: at(name),
    sequences: 16,
    sequenceLength: 64,
    microBatches: 1,
    schedule: { name: "cosine", rate, warmup: 5, steps, floor: 0.1 },
    checkpoint: { everySteps: 1000, keep: 1 },
    data: at(`${task}-all`),
    model,
    ...changed,
  } as const;
  return train(settings, quiet);
}

const put = (name: string, branches: readonly string[], more: { topK?: number; seed?: number; attention?: string } = {}) =>
  assemble({ branches, out: at(name), topK: 2, attention: "mean", seed: 1, codecs: ["f32"], overwrite: false, ...more }, () => {});

async function writeTask({ name, parts, tokens }: Task): Promise<void> {
  await writeCorpus(at(`${name}-all`), tokens(parts, 16_385, 9));
  await writeCorpus(at(`${name}-other`), tokens(parts, 4097, 19));
  for (const part of parts) await writeCorpus(at(`${name}-${part}`), tokens([part], 16_385, 30 + part));
}

interface Grown {
  readonly seed: string;
  readonly branches: readonly RunEnd[];
  readonly folders: readonly string[];
}

/** A seed model of weights by that number, and its branches. */
async function grow(task: Task, number: number): Promise<Grown> {
  const name = `${task.name}-${number}`;
  const seed = (await run(task, `${name}-seed`, { init: "random", seed: number }, 40)).folder!;
  const branches: RunEnd[] = [];
  for (const part of task.parts)
    branches.push(await run(task, `${name}-branch-${part}`, { model: seed, data: at(`${task.name}-${part}`) }, task.steps));
  return { seed, branches, folders: branches.map(({ folder }) => folder!) };
}

let first: Grown;

before(async () => {
  await writeTask(chains);
  await writeTask(echoes);
  first = await grow(chains, 1);
});

const dirs = (): readonly string[] => first.folders;

test("experts are the branches' FFNs byte for byte, all else is their mean, routers are the seed's", async () => {
  await put("assembled", dirs());
  const store = await openStore(at("assembled"));
  const sources = await Promise.all(dirs().map(openCheckpoint));
  try {
    for (const [expert, source] of sources.entries()) {
      const unit = store.decodeUnit(await store.readUnit(1, expert, "f32"), "f32", 1, expert);
      for (const [name, tensor] of Object.entries({ w1: "gate_proj", w2: "down_proj", w3: "up_proj" }))
        assert.deepEqual(unit[name]?.data, await source.read(`model.layers.1.mlp.${tensor}.weight`));
    }
    for (const name of ["model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight", "model.norm.weight"]) {
      const each = await Promise.all(sources.map((source) => source.read(name)));
      const { data } = await store.readDense(name);
      for (const [i, value] of (data as Float32Array).entries()) {
        const mean = each.reduce((sum, values) => sum + values[i]!, 0) / each.length;
        assert.ok(Math.abs(value - mean) <= 1e-7 * Math.max(1, Math.abs(mean)), `${name}[${i}]`);
      }
    }
    await put("again", dirs());
    await put("drawn", dirs(), { seed: 2 });
    const [again, drawn] = await Promise.all(["again", "drawn"].map((name) => openStore(at(name))));
    assert.equal(again!.index.modelDigest, store.index.modelDigest);
    assert.notEqual(drawn!.index.modelDigest, store.index.modelDigest);
    await again!.close();
    await drawn!.close();
  } finally {
    await store.close();
    for (const source of sources) await source.close();
  }
});

test("experts of attention are the branches' heads byte for byte, by head of keys; of shared keys and values there is the mean", async () => {
  await put("heads", dirs(), { attention: "experts" });
  await put("shared", dirs(), { attention: "shared-kv" });
  const stores = await Promise.all(["heads", "shared", "assembled"].map((name) => openStore(at(name))));
  const [heads, shared, mean] = stores as [ModelStore, ModelStore, ModelStore];
  const sources = await Promise.all(dirs().map(openCheckpoint));
  const read = async (store: ModelStore, name: string) => (await store.readDense(name)).data as Float32Array;
  try {
    const { num_key_value_heads: kvHeads, hidden_size: hidden } = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    for (const [projection, pieces] of Object.entries({ q: kvHeads, k: kvHeads, v: kvHeads, o: hidden * kvHeads })) {
      const name = `model.layers.1.self_attn.${projection}_proj.weight`;
      const [all, each] = [await read(heads, name), await Promise.all(sources.map((source) => source.read(name)))];
      const size = each[0]!.length / pieces;
      for (let piece = 0; piece < pieces * each.length; piece++) {
        const at = Math.floor(piece / each.length) * size;
        assert.deepEqual(all.subarray(piece * size, (piece + 1) * size), each[piece % each.length]!.subarray(at, at + size));
      }
      assert.deepEqual(await read(shared, name), ["k", "v"].includes(projection) ? await read(mean, name) : all);
    }
    const gate = await read(heads, "model.layers.1.self_attn.gate.weight");
    assert.deepEqual(await read(shared, "model.layers.1.self_attn.gate.weight"), gate);
    assert.notDeepEqual(await read(heads, "model.layers.1.mlp.gate.weight"), gate);
    assert.deepEqual(await read(heads, "model.layers.1.mlp.gate.weight"), await read(mean, "model.layers.1.block_sparse_moe.gate.weight"));
  } finally {
    for (const opened of [...stores, ...sources]) await opened.close();
  }
});

test("assembled and trained on, they beat each branch, and a seed of as many experts that had all steps in one piece", async (t) => {
  const assembled = (await run(chains, "assembled-on", { model: at("assembled") }, 60)).validationLoss!;
  await put("copies", [first.seed, first.seed, first.seed]);
  const unbranched = (await run(chains, "copies-on", { model: at("copies") }, 120)).validationLoss!;
  const each = first.branches.map(({ validationLoss }) => validationLoss!);
  const reported = each.map((loss) => loss.toFixed(3)).join(", ");
  t.diagnostic(`loss on all parts: assembled ${assembled.toFixed(3)}, without branches ${unbranched.toFixed(3)}, branches ${reported}`);
  assert.ok(assembled <= 0.9 * Math.min(...each), `${assembled}, branches ${reported}`);
  assert.ok(assembled <= 0.99 * unbranched, `${assembled}, without branches ${unbranched}`);
});

/** Seeds of the weights; more take longer. */
const seeds = Number(process.env.ENODIA_RECIPE_SEEDS ?? 1);

for (let number = 1; number <= seeds; number++)
  test(`branches that look back to different places do better with their attentions as experts than with the mean: seed ${number}`, async (t) => {
    const { seed, folders } = await grow(echoes, number);
    const lossOf = async (kind: string, from: readonly string[], attention: string): Promise<number> => {
      const name = `${kind}-${attention}-${number}`;
      await put(name, from, { attention });
      return (await run(echoes, `${name}-on`, { model: at(name) }, 20)).validationLoss!;
    };
    const [mean, experts] = [await lossOf("unlike", folders, "mean"), await lossOf("unlike", folders, "experts")];
    const copies = [seed, seed, seed];
    const [plain, copied] = [await lossOf("alike", copies, "mean"), await lossOf("alike", copies, "experts")];
    t.diagnostic(`mean ${mean.toFixed(3)}, experts ${experts.toFixed(3)}; of the seed's copies ${plain.toFixed(3)}, ${copied.toFixed(3)}`);
    assert.ok(experts <= 0.85 * mean, `${experts}, with the mean ${mean}`);
    assert.ok(copied >= 0.97 * plain, `attentions that are alike gain too: ${copied}, with the mean ${plain}`);
  });

interface Refused {
  readonly branches: () => readonly string[];
  readonly topK?: number;
  readonly attention?: string;
  readonly message: RegExp;
}

const refused: Record<string, Refused> = {
  "one branch": { branches: () => dirs().slice(1, 2), message: /1 branches are given; name from 2 to 256 folders/ },
  "one expert a token": { branches: dirs, topK: 1, message: /--top-k is 1; .* from 2 \(routers learn nothing by one\) to 3/ },
  "more experts than branches": { branches: dirs, topK: 4, message: /--top-k is 4; it must be a whole number from 2 .* to 3/ },
  "more experts of a token than a model may say": {
    branches: () => new Array<string>(65).fill(dirs()[0]!),
    topK: 65,
    message: /--top-k is 65; .* to 64$/,
  },
  "attention of another kind": {
    branches: dirs,
    attention: "sum",
    message: /--attention is "sum"; it must be one of mean, experts, shared-kv/,
  },
  "branches of other sizes": {
    branches: () => [...dirs(), changed("wider", "config.json", '"rms_norm_eps": 0.000001', '"rms_norm_eps": 0.00001')],
    message: /wider: has another config.json than .*; branches are trained from one seed model/,
  },
  "branches of other tokenizers": {
    branches: () => [...dirs(), changed("other-words", "tokenizer.json", "{", "{ ")],
    message: /other-words: has another tokenizer.json than/,
  },
};

function changed(name: string, file: string, from: string, to: string): string {
  cpSync(first.seed, at(name), { recursive: true });
  const text = readFileSync(join(at(name), file), "utf8");
  assert.ok(text.includes(from), `${file} has no ${from}`);
  writeFileSync(join(at(name), file), text.replace(from, to));
  return at(name);
}

for (const [name, { branches: given, message, ...options }] of Object.entries(refused)) {
  test(`${name}: refused by field and remedy`, async () => {
    await assert.rejects(async () => put("refused", given(), options), { code: "BadOption", message });
  });
}

test("a tokenizer.json that is no file, or not there, is refused by its place and not waited for", async () => {
  const [fifo, none] = ["fifo", "none"].map((name) => changed(name, "config.json", "{", "{"));
  for (const dir of [fifo!, none!]) rmSync(join(dir, "tokenizer.json"));
  execFileSync("mkfifo", [join(fifo!, "tokenizer.json")]);
  await assert.rejects(put("refused", [fifo!, first.seed]), {
    code: "ModelNotFound",
    message: /tokenizer.json: is a FIFO, not a regular file/,
  });
  await assert.rejects(put("refused", [none!, first.seed]), {
    code: "ModelNotFound",
    message: /none: has no tokenizer.json; copy the seed/,
  });
});
