// Upcycling end to end on the tiny GGUF: with noise 0 the MoE's logits are those that transformers gives for the dense model.
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { loadModel, weightsIn } from "../../../test/kit/models/small-engine.ts";
import { createReferenceBackend } from "../../compute/reference.ts";
import { llamaProgram } from "../../models/llama.ts";
import { mixtralConfig } from "../../models/mixtral.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { inspect } from "../inspect.ts";
import { upcycleSource } from "./upcycle.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-upcycle-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../../test/golden/tiny-gguf");
const quiet = () => undefined;
const base = { source: join(golden, "tiny-llama.gguf"), experts: 4, topK: 2, noise: 0.02, seed: 1, codecs: ["f32", "iq4_nl"] as const };
const shell = { overwrite: true, threads: 1, cache: join(dir, "cache"), secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } };
const make = (name: string, change: object) => upcycleSource({ ...base, ...shell, out: join(dir, name), ...change }, quiet);

async function logits(store: ModelStore, ids: readonly number[]): Promise<Float32Array> {
  const model = await loadModel(await createReferenceBackend({ threads: 1 }), weightsIn(store, "f32"), { context: ids.length });
  return model.forward(ids, 0);
}

const distance = (a: Float32Array, b: Float32Array) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!))) / Math.max(...b.map(Math.abs));

test("without noise the MoE's logits are the dense model's, as transformers computes them", async () => {
  await make("exact", { noise: 0 });
  const store = await openStore(join(dir, "exact"));
  const expected = JSON.parse(await readFile(join(golden, "golden.json"), "utf8"));
  for (const { ids, logits: encoded } of expected.cases) {
    const want = new Float32Array(new Uint8Array(Buffer.from(encoded, "base64")).buffer);
    const off = distance(await logits(store, ids), want);
    assert.ok(off <= 1e-4, `relative distance ${off}`);
  }
  await store.close();
});

test("with noise every expert differs, the logits too, and the same seed gives the same bytes", async () => {
  const first = await make("noisy", {});
  const report = await inspect({ dir: first.out, verify: true }, quiet);
  assert.ok(report.kind === "store");
  assert.equal(report.codecs.f32?.distinctHashes, 8);
  assert.equal(report.codecs.iq4_nl?.distinctHashes, 8);
  assert.deepEqual(report.verified, { units: 16, denseTensors: 16, files: 3 });
  const again = await make("again", {});
  assert.equal(again.index.modelDigest, first.index.modelDigest);
  const other = await make("other", { seed: 2 });
  assert.notEqual(other.index.modelDigest, first.index.modelDigest);
});

const wrong: Readonly<Record<string, readonly [change: object, code: string, want: RegExp]>> = {
  "more experts per token than experts": [{ topK: 5 }, "BadOption", /--top-k is 5/],
  "one expert": [{ experts: 1, topK: 1 }, "BadOption", /--experts is 1/],
  "negative noise": [{ noise: -1 }, "BadOption", /--noise is -1/],
  "a source that is a MoE already": [
    { source: join(golden, "../tiny-f32") },
    "UnknownArchitecture",
    /only LlamaForCausalLM can be upcycled/,
  ],
};
for (const [sentence, [change, code, message]] of Object.entries(wrong)) {
  test(`${sentence} is refused before anything is written`, async () => {
    const before = await readdir(dir, { recursive: true });
    await assert.rejects(make("never", change), { name: AppError.name, code, message });
    assert.deepEqual(await readdir(dir, { recursive: true }), before);
  });
}

test("what a dense config leaves out is computed as Llama would, not as Mixtral would", () => {
  const raw = {
    architectures: ["LlamaForCausalLM"],
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    vocab_size: 320,
    max_position_embeddings: 512,
  };
  const upcycled = (more: object) => {
    const config = { ...raw, ...more };
    const moe = mixtralConfig(config, llamaProgram(config), { experts: 4, topK: 2 });
    return [moe.rms_norm_eps, moe.rope_theta, moe.num_key_value_heads, moe.tie_word_embeddings];
  };
  assert.deepEqual(upcycled({}), [1e-6, 1e4, 4, false]);
  assert.deepEqual(upcycled({ rope_scaling: { rope_type: "default", rope_theta: 7e5 } }), [1e-6, 7e5, 4, false]);
  assert.deepEqual(upcycled({ rope_theta: 1, rope_parameters: { rope_type: "default", rope_theta: 5e5 } }), [1e-6, 5e5, 4, false]);
});
