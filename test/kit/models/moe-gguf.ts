// Checkpoints of test/golden as GGUF MoE files: names, stacks and row order as llama.cpp's converter of the family writes them.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { bytesOf } from "../../../runtime/weights/floats.ts";
import type { GgufMeta, GgufTensorToWrite } from "./gguf-writer.ts";

const golden = join(import.meta.dirname, "../../golden");

/** How a matrix is stored: ggml's type number and the bytes of its values. */
export interface Stored {
  readonly type: number;
  readonly bytes: (values: Float32Array) => Uint8Array;
}
const storedF32: Stored = { type: 0, bytes: (values) => bytesOf(values).slice() };

export interface MoeGguf {
  readonly metadata: Readonly<Record<string, GgufMeta>>;
  readonly tensors: readonly GgufTensorToWrite[];
}

/** The tokenizer of a folder, that of the goldens by default, as GGUF metadata. */
export async function tokenizerMetadata(folder = join(golden, "tiny-f32")): Promise<Readonly<Record<string, GgufMeta>>> {
  const { model, added_tokens } = JSON.parse(await readFile(join(folder, "tokenizer.json"), "utf8"));
  const { chat_template } = JSON.parse(await readFile(join(folder, "tokenizer_config.json"), "utf8").catch(() => "{}"));
  const template = chat_template ?? (await readFile(join(folder, "chat_template.jinja"), "utf8"));
  const tokens = Object.keys(model.vocab).toSorted((a, b) => model.vocab[a] - model.vocab[b]);
  const special = new Set(added_tokens.map((token: { content: string }) => token.content));
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((token) => (special.has(token) ? 3 : 1)),
    "tokenizer.ggml.merges": model.merges.map((merge: string | string[]) => (Array.isArray(merge) ? merge.join(" ") : merge)),
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": template,
  };
}

/** Hugging Face's two halves of each head to interleaved pairs. */
export function interleaved(values: Float32Array, columns: number, headRows: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < values.length / columns; row++) {
    const within = row % headRows;
    const to = row - within + 2 * (within % (headRows / 2)) + (within < headRows / 2 ? 0 : 1);
    out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}

/** What a layer's tensors of Mixtral are called in GGUF, and those outside of layers. */
export const mixtralParts: Readonly<Record<string, string>> = {
  "input_layernorm.weight": "attn_norm.weight",
  "self_attn.q_proj.weight": "attn_q.weight",
  "self_attn.k_proj.weight": "attn_k.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "self_attn.o_proj.weight": "attn_output.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
};
export const mixtralTop: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};
export const mixtralMatrices: Readonly<Record<string, string>> = { w1: "ffn_gate", w2: "ffn_down", w3: "ffn_up" };

/** test/golden/tiny-f32, a Mixtral of 4 experts, as GGUF: experts stacked, or each a tensor of its own as old files have them. */
export async function mixtralGguf(layout: "stacked" | "single", experts: Stored = storedF32): Promise<MoeGguf> {
  const config = JSON.parse(await readFile(join(golden, "tiny-f32/config.json"), "utf8"));
  const checkpoint = await openCheckpoint(join(golden, "tiny-f32"));
  const headRows = config.hidden_size / config.num_attention_heads;
  const tensors: GgufTensorToWrite[] = [];
  const f32 = (name: string, shape: readonly number[], values: Float32Array) =>
    tensors.push({ name, shape, type: 0, data: bytesOf(values).slice() });
  for (const name of checkpoint.names) {
    const [shape, values] = [checkpoint.shape(name) ?? [], await checkpoint.read(name)];
    const [, layer, part = ""] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
    const isRotated = /[qk]_proj/.test(part);
    if (name in mixtralTop) f32(mixtralTop[name]!, shape, values);
    else if (part in mixtralParts)
      f32(`blk.${layer}.${mixtralParts[part]}`, shape, isRotated ? interleaved(values, shape[1]!, headRows) : values);
  }
  for (let layer = 0; layer < config.num_hidden_layers; layer++)
    for (const [matrix, part] of Object.entries(mixtralMatrices)) {
      const names = Array.from(
        { length: config.num_local_experts },
        (_, e) => `model.layers.${layer}.block_sparse_moe.experts.${e}.${matrix}.weight`,
      );
      const shape = checkpoint.shape(names[0]!)!;
      const each = await Promise.all(names.map(async (name) => experts.bytes(await checkpoint.read(name))));
      if (layout === "stacked")
        tensors.push({
          name: `blk.${layer}.${part}_exps.weight`,
          shape: [each.length, ...shape],
          type: experts.type,
          data: Buffer.concat(each),
        });
      else
        for (const [e, data] of each.entries()) tensors.push({ name: `blk.${layer}.${part}.${e}.weight`, shape, type: experts.type, data });
    }
  await checkpoint.close();
  const metadata = {
    "general.architecture": "llama",
    "llama.block_count": config.num_hidden_layers,
    "llama.context_length": config.max_position_embeddings,
    "llama.embedding_length": config.hidden_size,
    "llama.feed_forward_length": config.intermediate_size,
    "llama.attention.head_count": config.num_attention_heads,
    "llama.attention.head_count_kv": config.num_key_value_heads,
    "llama.rope.dimension_count": headRows,
    "llama.rope.freq_base": config.rope_parameters?.rope_theta ?? config.rope_theta,
    "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    "llama.expert_count": config.num_local_experts,
    "llama.expert_used_count": config.num_experts_per_tok,
    ...(await tokenizerMetadata()),
  };
  return { metadata, tensors };
}
