import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { AppError } from "../../../crds/common.ts";
import type { Backend } from "../../../runtime/compute/backend.ts";
import { createBackend } from "../../../runtime/compute/index.ts";
import { asF32 } from "../../../runtime/kernels/weights.ts";
import { importModel } from "../../../runtime/modelstore/import.ts";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import { openGguf } from "../../../runtime/weights/gguf.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { published, writePublished } from "../../kit/models/published-gguf.ts";
import type { Published } from "../../kit/models/published-parts.ts";
import { loadModel, type ModelWeights } from "../../kit/models/small-engine.ts";
import { randomModel, type Shape, shapes } from "../gpu-model.ts";
import { openEngine, readArgs } from "../serve.ts";
import { agreeingPeer } from "../speed.ts";
import { planGguf, writeGguf, writeStoreGguf } from "./gguf.ts";
import { planModelGguf } from "./model-gguf.ts";
import { Peer } from "./peer.ts";

let root = "";
let store: ModelStore;
before(async () => {
  root = mkdtempSync(join(tmpdir(), "enodia-gguf-"));
  const from = join(import.meta.dirname, "../../golden/tiny-f32");
  await importMoe({ from, out: join(root, "store"), codecs: ["f32", "q4_0"], overwrite: true }, () => {});
  store = await openStore(join(root, "store"));
});
after(async () => {
  await store.close();
  rmSync(root, { recursive: true, force: true });
});

test("a store's experts are in the file as they are, dense matrices as int8 blocks, norms and gates as f32", async () => {
  const path = join(root, "q4_0.gguf");
  await writeStoreGguf(store, "q4_0", path);
  const file = await openGguf(path);
  try {
    const expert = store.decodeUnit(await store.readUnit(1, 2, "q4_0"), "q4_0", 1, 2).w2;
    assert.ok(expert?.form === "q4_0");
    const [rows = 0] = expert.shape;
    const { form, bytes } = await file.readRows("blk.1.ffn_down_exps.weight", { first: 2 * rows, rows });
    assert.deepEqual([form, Buffer.compare(bytes, expert.data)], ["q4_0", 0]);
    for (const [name, want] of Object.entries({
      "token_embd.weight": "q8_0",
      "blk.0.attn_q.weight": "q8_0",
      "blk.0.ffn_gate_inp.weight": "f32",
      "blk.0.attn_norm.weight": "f32",
    }))
      assert.equal(file.form(name), want, name);
    const head = asF32(await store.readDense("model.embed_tokens.weight"));
    const largest = head.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const written = await file.read("token_embd.weight");
    assert.ok(written.every((value, i) => Math.abs(value - (head[i] as number)) <= largest / 127));
    assert.equal(file.metadata.get("llama.expert_count"), store.index.experts);
    assert.equal(file.metadata.get("tokenizer.ggml.model"), "none");
  } finally {
    await file.close();
  }
});

test("with experts as f32 all is f32, and a head's rows stand as llama.cpp rotates them", async () => {
  const { tensors } = await planGguf(store, "f32");
  assert.deepEqual([...new Set(tensors.map(({ type }) => type))], [0]);
  const name = "model.layers.0.self_attn.k_proj.weight";
  const weight = await store.readDense(name);
  const [data, shape] = [asF32(weight), weight.shape];
  const [, columns = 0] = shape;
  const config = store.config as { hidden_size: number; num_attention_heads: number };
  const half = config.hidden_size / config.num_attention_heads / 2;
  const written = await tensors.find((tensor) => tensor.name === "blk.0.attn_k.weight")?.read();
  const values = new Float32Array(Uint8Array.from(written ?? []).buffer);
  const rowOf = (of: Float32Array, row: number): Float32Array => of.subarray(row * columns, (row + 1) * columns);
  assert.deepEqual([rowOf(values, 1), rowOf(values, 2)], [rowOf(data, half), rowOf(data, 1)]);
  const stack = tensors.find((tensor) => tensor.name === "blk.0.ffn_up_exps.weight");
  const first = store.decodeUnit(await store.readUnit(0, 0, "f32"), "f32", 0, 0).w3;
  assert.ok(first);
  const experts = new Float32Array(Uint8Array.from((await stack?.read()) ?? []).buffer);
  assert.deepEqual(
    experts.subarray(
      0,
      first.shape.reduce((a, b) => a * b, 1),
    ),
    asF32(first),
  );
});

test("a file that is there is not written again; what is no Mixtral is refused by its field", async () => {
  const path = join(root, "there.gguf");
  writeFileSync(path, "there");
  await writeStoreGguf(store, "q4_0", path);
  assert.equal(readFileSync(path, "utf8"), "there");
  const other = Object.assign({}, store, { config: { architectures: ["OlmoeForCausalLM"] } });
  await assert.rejects(writeStoreGguf(other, "q4_0", join(root, "no.gguf")), { code: "UnsupportedShape", message: /architectures/ });
  assert.ok(!existsSync(join(root, "no.gguf")));
});

const shape = shapes.tiny as Shape;
const ids = Array.from({ length: shape.prompt }, (_, i) => (i * 7919) % shape.config.vocab_size);
const order = { text: ids, tokens: 2 * shape.prompt, threads: 1 };
const log = (): void => {};

let backend: Backend;
before(async () => {
  backend = await createBackend("reference", { threads: 1 });
});
after(async () => backend.close());

async function ownLogits(model: ModelWeights): Promise<Float32Array> {
  const loaded = await loadModel(backend, model, { context: order.tokens });
  const logits = await loaded.next(ids, 0);
  await loaded.dispose();
  return logits;
}

test("llama.cpp computes the model of the file: its logits are ours, and not those of another rotation", async () => {
  const model = randomModel(shape, 2, "f32");
  const path = join(root, "f32.gguf");
  await writeGguf(planModelGguf(model, shape.config, "f32"), path);
  const peer = await Peer.start({ path, vocab: model.program.vocab, on: { kind: "cpu" }, log });
  try {
    const off = await peer.agreeOnLogits(order, await ownLogits(model));
    assert.ok(off < 2e-3, `${off}`); // its keys and values are halves
    const turned = Object.assign({}, shape, { config: Object.assign({}, shape.config, { rope_theta: 10 }) });
    const other = await ownLogits(randomModel(turned, 2, "f32"));
    const offAsOther = await peer.agreeOnLogits(order, other).catch((error: AppError) => error.code);
    assert.ok(offAsOther === "PeerDisagrees" || Number(offAsOther) > 10 * off, `${offAsOther}`);
    await assert.rejects(
      peer.agreeOnLogits(
        order,
        other.map((value) => -value),
      ),
      { code: "PeerDisagrees" },
    );
  } finally {
    await peer.close();
  }
});

test("experts and dense matrices of the file have the forms of the codec", async () => {
  const path = join(root, "q4_0.gguf");
  await writeGguf(planModelGguf(randomModel(shape, 1, "q4_0"), shape.config, "q4_0"), path);
  const file = await openGguf(path);
  try {
    const forms = ["blk.0.ffn_up_exps.weight", "blk.0.attn_q.weight", "output.weight", "blk.0.ffn_gate_inp.weight"];
    assert.deepEqual(
      forms.map((name) => file.form(name)),
      ["q4_0", "q8_0", "q8_0", "f32"],
    );
  } finally {
    await file.close();
  }
});

test("why there is no llama.cpp is said: no package for the kind, or a file that it does not read", async () => {
  const path = join(root, "none.gguf");
  writeFileSync(path, "no GGUF");
  const start = (on: Parameters<typeof Peer.start>[0]["on"]): Promise<Peer> => Peer.start({ path, vocab: 256, on, log });
  await assert.rejects(start({ kind: "metal", called: "a device" }), { code: "BackendUnavailable", message: /metal/ });
  await assert.rejects(start({ kind: "cpu" }), { code: "BackendUnavailable", message: /none\.gguf/ });
});

const importing = (source: string, out: string) =>
  importModel({ source, out, overwrite: false, cache: join(root, "cache"), secrets: {} }, () => undefined);

/** DeepSeek is not among them: of V2's layout llama.cpp computes 27 layers alone, of V3's no heads as small as these. */
for (const name of Object.keys(published).filter((each) => !each.startsWith("DeepSeek")))
  test(`a store of ${name}, as its file has it, is compared with llama.cpp on that file`, async () => {
    const folder = join(root, name);
    await writePublished((published[name] as () => Published)(), folder);
    const [gguf, storeDir] = [join(folder, "model.gguf"), join(folder, "store")];
    await importing(gguf, storeDir);
    const asked = await readArgs(["--store", storeDir, "--gguf", gguf, "--threads", "1"]);
    assert.equal(asked.codec, "source");
    const model = await openStore(storeDir);
    const under = await openEngine(asked, { threads: 1, maxContext: 64 });
    assert.ok(under);
    try {
      await (await agreeingPeer(model, asked, under)).close();
      if (!name.startsWith("Mixtral"))
        await assert.rejects(agreeingPeer(model, { ...asked, gguf: undefined }, under), { message: /--gguf FILE/ });
      await assert.rejects(agreeingPeer(model, { ...asked, codec: "q4_0" }, under), { code: "InvalidOption", message: /--codec source/ });
    } finally {
      await under.engine.close();
      await model.close();
    }
  });

test("layers without experts are no hindrance, and what llama.cpp says of a file that it does not read is told", async () => {
  const name = "DeepSeek-V2-Lite, Q4_K_M, with whole latents";
  const folder = join(root, name);
  await writePublished((published[name] as () => Published)(), folder);
  const [path, storeDir] = [join(folder, "model.gguf"), join(folder, "store")];
  await importing(path, storeDir);
  const under = await openEngine(await readArgs(["--store", storeDir]), { threads: 1, maxContext: 64 });
  assert.ok(under);
  await under.engine.close();
  await assert.rejects(Peer.start({ path, vocab: under.info.vocab, on: { kind: "cpu" }, log }), { message: /q_lora_rank/ });
});
