import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { asF32 } from "../../../runtime/kernels/weights.ts";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import { openGguf } from "../../../runtime/weights/gguf.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { planGguf, writeStoreGguf } from "./gguf.ts";

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
    const expert = store.decodeUnit(await store.readUnit(1, 2, "q4_0"), "q4_0", 1).w2;
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
  const first = store.decodeUnit(await store.readUnit(0, 0, "f32"), "f32", 0).w3;
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
