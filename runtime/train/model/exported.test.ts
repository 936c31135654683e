// The Hugging Face folder of a result: it has the tensors that transformers' own checkpoint of the family has, and with ENODIA_PYTHON, a
// Python with torch and transformers, transformers computes from it what serving computes.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { after, test } from "node:test";
import { modelOf } from "../../../test/kit/models/golden-files.ts";
import { loadModel } from "../../../test/kit/models/small-engine.ts";
import { chainedTokens, runSettings, tinyModel, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { createGgmlBackend } from "../../compute/ggml/index.ts";
import { relativeError } from "../../compute/op-self-test.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { train } from "../loop/run.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { parseRecipes } from "../recipes/index.ts";

const golden = join(import.meta.dirname, "../../../test/golden");
const folder = mkdtempSync(join(tmpdir(), "enodia-exported-"));
after(() => rmSync(folder, { recursive: true }));
const data = join(folder, "data");
await writeCorpus(data, chainedTokens(400, 1));

/** The Hugging Face folder of a run of few steps. */
async function exported(name: string, changed: Partial<TrainSettings>): Promise<string> {
  const settings: TrainSettings = { ...runSettings, init: "checkpoint", data, out: join(folder, "runs", name), ...changed };
  const end = await train(settings, { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} });
  return end.folder as string;
}

type Header = Readonly<Record<string, { readonly dtype: string; readonly shape: readonly number[] }>>;

/** Tensors of the only safetensors file of a folder. */
function headerOf(dir: string): Header {
  const bytes = readFileSync(join(dir, "model.safetensors"));
  const { __metadata__: _, ...header } = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString()) as Header;
  return header;
}

const shapesOf = (header: Header): Readonly<Record<string, readonly number[]>> =>
  Object.fromEntries(Object.entries(header).map(([name, { shape }]) => [name, shape]));

/** Families that transformers has; the others have a layout of their own, which our reader knows. */
const published: readonly string[] = ["deepseek-v2", "deepseek-v3", "gpt-oss", "llama", "mixtral", "olmoe", "qwen3", "qwen3-moe"];
const families = globSync("families/*/config.json", { cwd: golden }).map(dirname).toSorted();

for (const family of families)
  test(`the result of ${basename(family)} has the tensors of its published layout, and a step of no length leaves their values`, async () => {
    const model = join(golden, family);
    const dir = await exported(basename(family), { model, schedule: { ...runSettings.schedule, rate: 1e-12, steps: 1 } });
    const found = headerOf(dir);
    if (published.includes(basename(family))) assert.deepEqual(shapesOf(found), shapesOf(headerOf(model)));
    assert.ok(Object.values(found).every(({ dtype }) => dtype === "F32"));
    const [here, there] = [await openCheckpoint(dir), await openCheckpoint(model)];
    try {
      assert.deepEqual(here.names.toSorted(), there.names.toSorted());
      for (const name of there.names) assert.ok(relativeError(await here.read(name), await there.read(name)) <= 1e-6, name);
    } finally {
      await here.close();
      await there.close();
    }
  });

test("numbers of config.json that transformers wants as floats have a point", async () => {
  const text = readFileSync(join(folder, "runs", "deepseek-v2", "huggingface", "config.json"), "utf8");
  assert.match(text, /^ {2}"attention_dropout": 0\.0,$/m);
  assert.match(text, /^ {2}"num_hidden_layers": [0-9]+,$/m);
});

const python = process.env.ENODIA_PYTHON;
const skip = python === undefined && "ENODIA_PYTHON names no Python with torch and transformers";

interface TheirLogits {
  readonly logits: readonly (readonly number[])[];
  readonly missing: readonly string[];
}

async function ours(dir: string, ids: readonly number[]): Promise<Float32Array> {
  const [backend, checkpoint] = [await createGgmlBackend({ threads: 1 }), await openCheckpoint(dir)];
  const model = await loadModel(backend, modelOf(dir, checkpoint), { context: 64 });
  try {
    return await model.forward(ids, 0);
  } finally {
    await model.dispose();
    await checkpoint.close();
    await backend.close();
  }
}

test("transformers computes the logits of serving from what was trained, to 1e-5", { skip, timeout: 600_000 }, async (t) => {
  const trained = { schedule: { ...runSettings.schedule, rate: 1e-2, steps: 5 } };
  const dirs: string[] = [];
  for (const name of published) dirs.push(await exported(`trained-${name}`, { model: join(golden, "families", name), ...trained }));
  const plainRope = { rope_parameters: { rope_type: "default", rope_theta: 1e4 } };
  const base = await exported("base", { model: writeModel(join(folder, "dense"), "llama", plainRope), init: "random", ...trained });
  dirs.push(await exported("adapted", { model: base, recipes: parseRecipes({ adapters: "mixlora:4:2:4" }), ...trained }));
  // The control: another model than the one that is asked for.
  const [first = ""] = dirs;
  const other = join(folder, "other");
  cpSync(join(golden, "families", published[0] as string), other, { recursive: true });
  const ids = chainedTokens(48, 5).map((id) => id % tinyModel.vocab);
  const { stdout, stderr, status } = spawnSync(python as string, [join(golden, "logits_of.py"), ...dirs, other], {
    input: JSON.stringify(ids),
    maxBuffer: 2 ** 28,
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  const theirs = JSON.parse(stdout) as Record<string, TheirLogits>;
  for (const dir of dirs) {
    const error = relativeError(await ours(dir, ids), theirs[dir]!.logits.flat());
    t.diagnostic(`${basename(dirname(dir))}: ${error.toExponential(1)}`);
    assert.deepEqual(theirs[dir]!.missing, [], `${dir}: names that one of the two does not know`);
    assert.ok(error <= 1e-5, `${dir}: ${error}`);
  }
  assert.ok(relativeError(await ours(first, ids), theirs[other]!.logits.flat()) > 1e-2, "an untrained model has other logits");
});
