// What surgery keeps, it keeps to the bit: units, rows of routers, and the texts of a model whose chosen experts all stay.
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { changedCheckpoint } from "../../../test/kit/models/changed-checkpoint.ts";
import { loadModel, weightsIn } from "../../../test/kit/models/small-engine.ts";
import { createBackend } from "../../compute/index.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { openStore } from "../../weights/store-reader.ts";
import { importModel } from "../import.ts";
import { inspect } from "../inspect.ts";
import { upcycle } from "../upcycle/upcycle.ts";
import { average } from "./average.ts";
import { type MergeOptions, merge } from "./merge.ts";
import { type PruneOptions, prune } from "./prune.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-surgery-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../../test/golden");
const quiet = () => undefined;
const shell = { overwrite: true, cache: join(dir, "cache"), secrets: {} };
const refusal = (message: RegExp, code = "BadOption") => ({ name: AppError.name, code, message });

const backend = await createBackend("cpu", { threads: 1 });
after(() => backend.close());

async function storeOf(family: string, codecs: readonly CodecName[] = ["f32", "bf16"]): Promise<string> {
  const out = join(dir, family);
  await importModel({ ...shell, source: join(golden, "families", family), out, codecs }, quiet);
  return out;
}

/** Logits of every token, and the experts that each layer chose. */
async function run(folder: string, ids: readonly number[], codec: CodecName = "f32") {
  const store = await openStore(folder);
  const model = await loadModel(backend, weightsIn(store, codec), { context: 64 });
  const logits = (await model.forward(ids, 0)).slice();
  const routes = model.routes.map((layer) => [...new Set(layer)].sort((a, b) => a - b));
  await model.dispose();
  await store.close();
  return { logits, routes };
}

const ids = [7, 101, 30];
const all = [0, 1, 2, 3, 4, 5, 6, 7];

for (const family of ["mixtral", "gpt-oss", "rmoe"])
  test(`${family} without experts that a text never chose gives the logits of that text, to the bit`, async () => {
    const from = await storeOf(family);
    const want = await run(from, ids);
    const unused = want.routes.map((chosen) => all.filter((expert) => !chosen.includes(expert)));
    const count = Math.min(...unused.map(({ length }) => length));
    assert.ok(count > 1);
    const drop = unused.flatMap((experts, layer) => experts.slice(0, count).map((expert) => ({ layer, expert })));
    const { out, topK, kept } = await prune({ from, out: `${from}-pruned`, overwrite: false, drop }, quiet);
    for (const codec of ["f32", "bf16"] as const) {
      const [whole, part] = [await run(from, ids, codec), await run(out, ids, codec)];
      assert.deepEqual(part.logits, whole.logits);
      assert.deepEqual(
        part.routes.map((chosen, layer) => chosen.map((expert) => kept[layer]![expert])),
        whole.routes,
      );
    }
    const report = await inspect({ dir: out, verify: true, backend: "cpu" }, quiet);
    assert.deepEqual(report.kind === "store" && [report.experts, report.topK], [8 - count, topK]);
  });

test("--keep keeps the most used experts of each layer, the lower of two that are alike, and says what is lost", async () => {
  const from = await storeOf("mixtral", ["f32"]);
  const load = [
    [5, 0, 9, 5, 5, 1, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1],
  ];
  const done = await prune({ from, out: join(dir, "kept"), overwrite: false, keep: 3, load }, quiet);
  assert.deepEqual(done.kept, [
    [0, 2, 3],
    [0, 1, 2],
  ]);
  assert.equal(done.lost, 11 / 33);
  assert.deepEqual(
    done.index.codecs.f32?.units.map((layer) => layer.map(({ sha256 }) => sha256)),
    await openStore(from).then(async (store) => {
      await store.close();
      return done.kept.map((layer, l) => layer.map((expert) => store.index.codecs.f32!.units[l]![expert]!.sha256));
    }),
  );
  const one = await prune({ from, out: join(dir, "one"), overwrite: false, keep: 1, load }, quiet);
  assert.deepEqual([one.topK, one.index.experts], [1, 1]);
});

const load = [all, all];
const wrong: Readonly<Record<string, readonly [Partial<PruneOptions>, RegExp, string?]>> = {
  "neither a number nor a list": [{}, /name --keep NUMBER with --load FILE, or --drop LIST/],
  "a number without a record": [{ keep: 4 }, /--load is missing: .*plan record/],
  "all experts": [{ keep: 8, load }, /--keep is 8; of 8 experts it must be from 1 to 7/],
  "a record of another model": [{ keep: 4, load: [all] }, /--load is of 1 layers of 8 experts, the model has 2 of 8/],
  "an expert that is not there": [{ drop: [{ expert: 8 }] }, /--drop: the model has no expert 8/],
  "unlike layers": [{ drop: [{ layer: 0, expert: 1 }] }, /--drop leaves from 7 to 8 experts in a layer; as many must stay/],
  "nothing left": [{ drop: all.map((expert) => ({ expert })) }, /one at least/],
  "more experts for a token": [{ drop: [{ expert: 1 }], topK: 3 }, /--top-k is 3; it must be from 1 to 2/],
  "a target that is there": [
    { drop: [{ expert: 1 }], out: join(dir, "mixtral-there") },
    /exists already; pass --overwrite/,
    "AlreadyExists",
  ],
  "the source as the target": [{ drop: [{ expert: 1 }], out: join(dir, "mixtral") }, /is the source/],
};
for (const [sentence, [change, message, code]] of Object.entries(wrong))
  test(`pruning with ${sentence} is refused, and nothing is written`, async () => {
    const from = await storeOf("mixtral", ["f32"]);
    if (code) await importModel({ ...shell, source: join(golden, "tiny-f32"), out: join(dir, "mixtral-there"), codecs: ["f32"] }, quiet);
    const before = await readdir(dir);
    await assert.rejects(prune({ from, out: join(dir, "never"), overwrite: false, ...change }, quiet), refusal(message, code));
    assert.deepEqual(await readdir(dir), before);
  });

test("gates that hand scores on from layer to layer are refused; groups of experts stay even", async () => {
  const plus = await storeOf("moe-plus-plus", ["f32"]);
  await assert.rejects(
    prune({ from: plus, out: join(dir, "never"), overwrite: false, drop: [{ expert: 1 }] }, quiet),
    refusal(/gate\.residual\.weight" hands scores/, "UnsupportedModel"),
  );
  const deepseek = await storeOf("deepseek-v3", ["f32"]);
  await assert.rejects(
    prune({ from: deepseek, out: join(dir, "never"), overwrite: false, drop: [{ expert: 1 }] }, quiet),
    refusal(/from 1 to 2 experts in a layer's groups/),
  );
});

for (const dense of ["first", "mean"] as const)
  test(`a model merged with itself (dense parts: ${dense}) and without the second half is the model, digest and all`, async () => {
    const from = join(dir, "tiny");
    await importModel({ ...shell, source: join(golden, "tiny-f32"), out: from, codecs: ["f32", "q4_0"] }, quiet);
    const both = await merge({ first: from, second: from, out: join(dir, `both-${dense}`), overwrite: false, dense }, quiet);
    assert.deepEqual([both.index.experts, both.index.topK], [8, 2]);
    const report = await inspect({ dir: both.out, verify: true, backend: "cpu" }, quiet);
    assert.equal(report.kind === "store" && report.verified?.units, 32);
    const drop = [4, 5, 6, 7].map((expert) => ({ expert }));
    const again = await prune({ from: both.out, out: join(dir, `again-${dense}`), overwrite: false, drop }, quiet);
    const store = await openStore(from);
    await store.close();
    assert.equal(again.index.modelDigest, store.index.modelDigest);
  });

test("where the second half's biases keep it from being chosen the text is the first one's to the bit; other biases choose it alone", async () => {
  const from = await storeOf("gpt-oss", ["f32"]);
  const merged = async (offset: number) =>
    run((await merge({ first: from, second: from, out: join(dir, "both"), overwrite: true, dense: "mean", offset }, quiet)).out, ids);
  assert.deepEqual(await merged(-1000), await run(from, ids));
  const { routes } = await merged(1000);
  assert.ok(routes.flat().every((expert) => expert >= 8));
});

test("dense parts that differ become their mean, or stay the first one's", async () => {
  const from = await storeOf("mixtral", ["f32"]);
  const other = await changedCheckpoint(join(golden, "families/mixtral"), dir, (tensors) => {
    const norm = tensors.get("model.norm.weight")!;
    norm.data = norm.data.map((value) => value + 2);
  });
  await importModel({ ...shell, source: other, out: `${other}-store`, codecs: ["f32"] }, quiet);
  const normOf = async (dense: "first" | "mean") => {
    const { out } = await merge({ first: from, second: `${other}-store`, out: join(dir, "norms"), overwrite: true, dense }, quiet);
    const store = await openStore(out);
    const { data } = await store.readDense("model.norm.weight");
    await store.close();
    return data[0]!;
  };
  const [first, mean] = [await normOf("first"), await normOf("mean")];
  assert.ok(Math.abs(mean - first - 1) < 1e-6);
});

const unlike: Readonly<Record<string, readonly [Partial<MergeOptions>, RegExp]>> = {
  "another family": [{ second: "gpt-oss" }, /has another architecture than/],
  "another size": [{ second: "tiny" }, /has another config\.json than/],
  "no form in common": [{ second: "coarse" }, /in f32, .* in bf16: import one of them again/],
  "groups of experts": [{ first: "deepseek-v3", second: "deepseek-v3" }, /chooses groups of experts/],
  "an offset without biases": [{ offset: 1 }, /--offset: the routers of these models have no biases/],
};
for (const [sentence, [change, message]] of Object.entries(unlike))
  test(`merging with ${sentence} is refused`, async () => {
    for (const family of ["mixtral", "gpt-oss", "deepseek-v3"]) await storeOf(family, ["f32"]);
    await importModel({ ...shell, source: join(golden, "tiny-f32"), out: join(dir, "tiny"), codecs: ["f32"] }, quiet);
    await importModel({ ...shell, source: join(golden, "families/mixtral"), out: join(dir, "coarse"), codecs: ["bf16"] }, quiet);
    const { first = "mixtral", second = "mixtral", ...rest } = change;
    const options = {
      first: join(dir, first),
      second: join(dir, second),
      out: join(dir, "never"),
      overwrite: false,
      dense: "mean" as const,
    };
    await assert.rejects(merge({ ...options, ...rest }, quiet), refusal(message));
  });

async function denseFolder(): Promise<string> {
  const out = join(dir, "dense");
  await importModel({ ...shell, source: join(golden, "tiny-gguf/tiny-llama.gguf"), out, folder: true }, quiet);
  return out;
}
const drawn = { experts: 3, topK: 2, noise: 0, seed: 1, codecs: ["iq4_nl", "f32"] as const, overwrite: true, threads: 1 };

test("upcycled without noise and averaged a dense Llama is what it was, file for file to the bit", async () => {
  const from = await denseFolder();
  const { out: store } = await upcycle({ ...drawn, from, out: join(dir, "upcycled") }, quiet);
  const { out, codec } = await average({ from: store, out: join(dir, "averaged"), overwrite: false }, quiet);
  assert.equal(codec, "f32");
  for (const name of ["model.safetensors", "tokenizer.json"])
    assert.ok((await readFile(join(out, name))).equals(await readFile(join(from, name))), name);
  const report = await inspect({ dir: out, verify: true }, quiet);
  assert.equal(report.kind === "dense" && report.verified?.tensors, 20);
  const served = await importModel({ ...shell, source: out, out: join(dir, "served"), codecs: ["f32"] }, quiet);
  assert.equal(served.architecture, "LlamaForCausalLM");
});

test("the mean of unlike experts lies between them; other families are refused", async () => {
  const { out: store } = await upcycle({ ...drawn, noise: 0.5, from: await denseFolder(), out: join(dir, "noisy") }, quiet);
  const { out } = await average({ from: store, out: join(dir, "mean"), overwrite: false }, quiet);
  const [opened, dense] = [await openStore(store), await openCheckpoint(out)];
  const units = await Promise.all(
    [0, 1, 2].map(async (e) => opened.decodeUnit(await opened.readUnit(1, e, "f32"), "f32", 1, e).w2!.data as Float32Array),
  );
  const mean = await dense.read("model.layers.1.mlp.down_proj.weight");
  assert.ok(mean.every((value, i) => Math.abs(value - units.reduce((sum, unit) => sum + unit[i]!, 0) / 3) < 1e-7));
  await Promise.all([opened.close(), dense.close()]);
  const oss = await storeOf("gpt-oss", ["f32"]);
  await assert.rejects(
    average({ from: oss, out: join(dir, "never"), overwrite: false }, quiet),
    refusal(/is GptOssForCausalLM; of MixtralForCausalLM alone/, "UnsupportedModel"),
  );
});
