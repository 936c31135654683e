// MixLoRA: it begins as the base, what it trains is small and the rest stays to the bit, more experts learn a task of several parts better
// than two that every token has, and its result, merged, is the model that was trained.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { cosine, folder, modelOf, run as runOf } from "../../../test/kit/training/recipe-runs.ts";
import { chainsOf, runSettings, writeCorpus } from "../../../test/kit/training/training.ts";
import { testFssdp } from "../../../test/kit/training/training-ranks.ts";
import { openModel } from "../../engine/thread/open.ts";
import { rankBytes } from "../../placement/training/rank-bytes.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { kindsOf } from "../model/layout.ts";
import { openSource } from "../model/model-source.ts";
import { memoryProblem } from "../ranks/fits.ts";
import { trainedModel } from "../recipes/index.ts";
import { parseRecipes } from "./index.ts";

await writeCorpus(join(folder, "one"), chainsOf([5], 16_385, 7));
const parts = [3, 7, 11, 13];
await writeCorpus(join(folder, "parts"), chainsOf(parts, 16_385, 9));
await writeCorpus(join(folder, "other"), chainsOf(parts, 2049, 19));

const plainRope = { rope_parameters: { rope_type: "default", rope_theta: 1e4 } };
const model = modelOf("llama", { ...plainRope, initializer_range: 0.1 });
const run = (name: string, changed: Partial<TrainSettings>) =>
  runOf({ model, data: join(folder, "one"), sequenceLength: 64, schedule: cosine(60), ...changed }, { name });

const base = await run("base", {});
const given: Partial<TrainSettings> = {
  model: base.folder!,
  init: "checkpoint",
  data: join(folder, "parts"),
  validation: join(folder, "other"),
};
const adapted = (text: string): Partial<TrainSettings> => ({
  ...given,
  recipes: parseRecipes({ adapters: text }),
  schedule: cosine(100, 1.5e-2),
});
const oneStep: Partial<TrainSettings> = { ...given, schedule: { ...runSettings.schedule, rate: 1e-9, steps: 1 } };

const near = (found: number | undefined, want: number | undefined): void =>
  assert.ok(Math.abs(found! - want!) <= 1e-5 * want!, `${found} is not ${want}`);

const eight = await run("eight", adapted("mixlora:8:2:4"));

test("it begins as the base, and eight experts of rank 4 learn what two, which every token has, do not", async (t) => {
  const plain = await run("plain", oneStep);
  near(eight.reports[0]?.loss, plain.reports[0]?.loss);
  const two = await run("two", adapted("mixlora:2:2:4"));
  const [found, want] = [eight.loss, two.loss];
  t.diagnostic(`losses: base ${plain.reports[0]?.loss.toFixed(3)}, eight experts ${found.toFixed(3)}, two ${want.toFixed(3)}`);
  assert.ok(found <= 0.9 * plain.reports[0]!.loss, `${found} is little less than the base's`);
  assert.ok(found <= 0.98 * want, `${found}, beside ${want}`);
  assert.ok(eight.validationLoss! <= 0.99 * two.validationLoss!, `${eight.validationLoss}, beside ${two.validationLoss}`);
});

test("the result, merged, is the model that was trained; what is not adapted is the base's to the bit; serving opens it", async () => {
  near((await run("merged", { ...oneStep, model: eight.folder! })).validationLoss, eight.validationLoss);
  const [from, to] = [await openCheckpoint(base.folder!), await openCheckpoint(eight.folder!)];
  try {
    const frozen = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"];
    for (const name of frozen) assert.deepEqual(await to.read(name), await from.read(name), name);
    const product = "model.layers.1.self_attn.q_proj.weight";
    assert.notDeepEqual(await to.read(product), await from.read(product), "products that are not trained, so this test cannot fail");
  } finally {
    await from.close();
    await to.close();
  }
  const options = { backend: "cpu", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 } as const;
  const served = await openModel({ storeDir: eight.store!, ...options });
  assert.deepEqual([served.program.family, served.store.index.experts], ["mixtral", 8]);
  await served.close();
});

test("adapters lie beside the result by MixLoRA's names, and checkpoints hold them and their moments alone", async () => {
  const config = JSON.parse(readFileSync(join(eight.adapters!, "adapter_config.json"), "utf8")) as Record<string, unknown>;
  assert.deepEqual([config.peft_type, config.r, config.num_experts, config.top_k], ["MIXLORA", 4, 8, 2]);
  // Of two layers: a gate of 8 x 32; pairs of q and o, of k and v; of eight experts, three pairs.
  const wanted = 2 * (8 * 32 + 2 * 4 * (32 + 32) + 2 * 4 * (32 + 16) + 8 * 3 * 4 * (32 + 48));
  assert.equal(eight.parameters, wanted);
  const size = statSync(join(eight.adapters!, "adapter_model.safetensors")).size;
  assert.ok(size >= 4 * wanted && size <= 4 * wanted + 16_384, `${size} bytes for ${wanted} parameters`);
  const bytesIn = (out: string, step: string): number => {
    const dir = join(folder, out, "checkpoints", step);
    const files = readdirSync(dir).filter((name) => name.endsWith(".bin"));
    return files.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  };
  const found = bytesIn("eight", "step-00000100");
  assert.ok(found >= 12 * wanted && found <= 12 * wanted + 20 * 4096, `${found} bytes for ${wanted} parameters`);
});

test("state is for what is trained, and the frozen weights are there once: less than a third of training the dense model", async () => {
  const smol = { hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, vocab_size: 49_152 };
  const heads = { num_attention_heads: 9, num_key_value_heads: 3, head_dim: 64 };
  const source = await openSource(modelOf("llama", { ...plainRope, ...smol, ...heads }));
  const bytesOf = (adapters: string) => {
    const { program, layout, frozenFloats } = trainedModel(source, { recipes: parseRecipes({ adapters }), seed: 1 });
    const batch = { microBatches: 1, sequences: 1, sequenceLength: 2, fssdp: testFssdp, optimizer: runSettings.optimizer };
    const { state, sums } = rankBytes(memoryProblem({ program, layout, frozenFloats, facts: { node: [0], speed: [1] }, ...batch }, 0));
    assert.equal(kindsOf(layout).experts.length, adapters === "" ? 0 : 240);
    return { state, sums, frozen: 4 * frozenFloats };
  };
  const [dense, small] = [bytesOf(""), bytesOf("mixlora:8:2:8")];
  assert.ok(small.frozen >= dense.state / 4 - 4096 && small.sums >= small.frozen, "the frozen weights are reckoned");
  assert.ok(small.state <= 0.1 * dense.state, `state of ${small.state} bytes, beside ${dense.state}`);
  assert.ok(small.state + small.sums <= (dense.state + dense.sums) / 3);
});

test("pairs as wide as the matrix are refused by option and remedy", async () => {
  await assert.rejects(run("refused", adapted("mixlora:8:2:33")), { code: "BadOption", message: /RANK must be at most 32/ });
});

test("a base with experts of its own is refused by name", async () => {
  await assert.rejects(run("refused", { ...adapted("mixlora:4:2:4"), model: eight.folder! }), {
    code: "UnsupportedModel",
    message: /architectures is "MixtralForCausalLM", supported: LlamaForCausalLM/,
  });
});
