// Dense Llama models to a Hugging Face folder in f32: what `upcycle` reads, and what the dense-equality test serves as its oracle.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { bytesOf } from "../weights/floats.ts";
import { type GgufFile, openGguf } from "../weights/gguf.ts";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-writer.ts";
import { readJson } from "../weights/store-reader.ts";
import { writeFolder } from "../weights/store-writer.ts";
import { type LlamaConfig, parseLlamaConfig, ropeTheta } from "./config.ts";
import { companionFiles, type Log } from "./files.ts";
import { huggingFaceName, llamaConfig, undoRotaryPermutation } from "./gguf-llama.ts";
import { tokenizerFromGguf } from "./gguf-tokenizer.ts";

const defaultLlamaTheta = 10000; // the family's default when config.json leaves it out

/** Tensors of a dense Llama and their shapes. Pure. */
export function llamaShapes(config: LlamaConfig): ReadonlyMap<string, readonly number[]> {
  const { hidden_size: hidden, intermediate_size: ffn, num_attention_heads: heads, vocab_size: vocab } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const kv = (config.num_key_value_heads ?? heads) * headDim;
  const shapes = new Map<string, readonly number[]>([["model.embed_tokens.weight", [vocab, hidden]]]);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`;
    shapes.set(`${prefix}.input_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}.self_attn.q_proj.weight`, [heads * headDim, hidden]);
    shapes.set(`${prefix}.self_attn.k_proj.weight`, [kv, hidden]);
    shapes.set(`${prefix}.self_attn.v_proj.weight`, [kv, hidden]);
    shapes.set(`${prefix}.self_attn.o_proj.weight`, [hidden, heads * headDim]);
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}.mlp.gate_proj.weight`, [ffn, hidden]);
    shapes.set(`${prefix}.mlp.up_proj.weight`, [ffn, hidden]);
    shapes.set(`${prefix}.mlp.down_proj.weight`, [hidden, ffn]);
  }
  shapes.set("model.norm.weight", [hidden]);
  if (!config.tie_word_embeddings) shapes.set("lm_head.weight", [vocab, hidden]);
  return shapes;
}

function checkShape(where: string, name: string, have: readonly number[] | undefined, want: readonly number[]): void {
  if (!have) throw new AppError(`${where}: has no tensor "${name}"; the model is incomplete`, { code: "MissingTensor" });
  if (have.length === want.length && have.every((size, i) => size === want[i])) return;
  throw new AppError(`${where}: tensor "${name}" is [${have.join(", ")}], the configuration implies [${want.join(", ")}]`, {
    code: "ShapeMismatch",
  });
}

/** A safetensors folder: checked and normalised to f32 under our own names. */
export async function importDenseFolder(from: string, out: string, overwrite: boolean, log: Log): Promise<void> {
  const raw = (await readJson(join(from, "config.json"), "BadModelConfig")) as Readonly<Record<string, unknown>>;
  const config = parseLlamaConfig(raw, from);
  const checkpoint = await openCheckpoint(from);
  try {
    const shapes = llamaShapes(config);
    const strange = checkpoint.names.find(
      (name) => !shapes.has(name) && name !== "lm_head.weight" && !name.endsWith("rotary_emb.inv_freq"),
    );
    if (strange) throw new AppError(`${from}: tensor "${strange}" belongs to no part of a Llama model`, { code: "UnknownArchitecture" });
    const tensors = [...shapes].map(([name, shape]): TensorToWrite => {
      checkShape(from, name, checkpoint.shape(name), shape);
      return { name, dtype: "F32", shape, read: async () => bytesOf(await checkpoint.read(name)) };
    });
    const files = await companionFiles(from);
    log(`importing dense model: ${config.num_hidden_layers} layers, hidden ${config.hidden_size}`);
    await writeFolder(out, overwrite, async (work) => {
      await writeFile(
        join(work, "config.json"),
        `${JSON.stringify({ ...raw, rope_theta: ropeTheta(config, defaultLlamaTheta) }, undefined, 2)}\n`,
      );
      for (const [name, path] of files) await copyFile(path, join(work, name));
      await writeSafetensors(join(work, "model.safetensors"), tensors);
    });
  } finally {
    await checkpoint.close();
  }
}

function ggufTensors(file: GgufFile, config: LlamaConfig): readonly TensorToWrite[] {
  const names = new Map<string, string>();
  for (const name of file.names) {
    const mapped = huggingFaceName(name);
    if (!mapped)
      throw new AppError(`${file.path}: tensor "${name}" belongs to no part of a plain Llama model`, { code: "UnsupportedModel" });
    names.set(mapped, name);
  }
  return [...llamaShapes(config)].map(([name, shape]) => {
    const source = names.get(name) ?? name;
    checkShape(file.path, source, file.shape(source), shape);
    const heads = name.endsWith("q_proj.weight")
      ? config.num_attention_heads
      : name.endsWith("k_proj.weight")
        ? config.num_key_value_heads
        : undefined;
    const read = async () => {
      const data = await file.read(source);
      return bytesOf(heads === undefined ? data : undoRotaryPermutation(data, heads, shape[0] as number, shape[1] as number));
    };
    return { name, dtype: "F32", shape, read };
  });
}

/** A GGUF file: weights dequantised, rotary rows put back into Hugging Face's order, tokenizer rebuilt. */
export async function importGguf(path: string, out: string, overwrite: boolean, log: Log): Promise<void> {
  const file = await openGguf(path);
  try {
    const tokenizer = tokenizerFromGguf(file.metadata, path);
    const embedding = file.shape("token_embd.weight");
    const vocab = embedding?.[0] ?? tokenizer.vocabulary;
    const raw = llamaConfig(file.metadata, path, !file.names.includes("output.weight"), vocab);
    const config = parseLlamaConfig(raw, path);
    if (tokenizer.vocabulary > vocab)
      throw new AppError(`${path}: ${tokenizer.vocabulary} tokens but ${vocab} embeddings`, { code: "BadTokenizer" });
    const tensors = ggufTensors(file, config);
    log(
      `importing GGUF (${file.formats.join(", ")}): ${config.num_hidden_layers} layers, hidden ${config.hidden_size}, vocabulary ${vocab}`,
    );
    await writeFolder(out, overwrite, async (work) => {
      const json = (name: string, value: unknown) =>
        writeFile(join(work, name), `${JSON.stringify(value, undefined, name === "tokenizer.json" ? 0 : 2)}\n`);
      await json("config.json", raw);
      await json("generation_config.json", {
        bos_token_id: raw.bos_token_id,
        eos_token_id: raw.eos_token_id,
        pad_token_id: raw.pad_token_id,
      });
      await json("tokenizer.json", tokenizer.tokenizer);
      await json("tokenizer_config.json", tokenizer.tokenizerConfig);
      await writeSafetensors(join(work, "model.safetensors"), tensors);
    });
  } finally {
    await file.close();
  }
}
