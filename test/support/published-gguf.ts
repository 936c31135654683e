// Small models in the layouts in which people publish them as GGUF: names, stacks, row orders and mixes of types as llama.cpp's converters
// and quantizer write them, with random weights; and the same weights as a Hugging Face checkpoint in f32.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ggmlFormats, isGgmlForm } from "../../runtime/kernels/ggml/index.ts";
import { gaussian, uniform } from "../../runtime/kernels/random.ts";
import { bf16Bits, bytesOf, f16Bits } from "../../runtime/weights/floats.ts";
import { writeSafetensors } from "../../runtime/weights/safetensors-writer.ts";
import { type StoredForm, storedBytes, widenStored } from "../../runtime/weights/stored.ts";
import { type GgufMeta, type GgufTensorToWrite, ggufBytes } from "./gguf-writer.ts";
import { tokenizerMetadata } from "./moe-gguf.ts";

const deviation = 0.05;
/** Byte offsets of the halves that scale a block, and their values: ordinary weights come out. */
const scales: Partial<Record<StoredForm, Readonly<Record<number, number>>>> = {
  q8_0: { 0: deviation / 64 },
  q4_0: { 0: deviation / 4 },
  q4_1: { 0: deviation / 4, 2: -2 * deviation },
  q5_0: { 0: deviation / 8 },
  q5_1: { 0: deviation / 8, 2: -2 * deviation },
  iq4_nl: { 0: deviation / 64 },
  iq4_xs: { 0: deviation / 1000 },
  q2_K: { 80: deviation / 8, 82: deviation / 8 },
  q3_K: { 108: deviation / 32 },
  q4_K: { 0: deviation / 250, 2: deviation / 32 },
  q5_K: { 0: deviation / 500, 2: deviation / 32 },
  q6_K: { 208: deviation / 1500 },
};

const halfBytes = ({ buffer }: Uint16Array): Uint8Array => new Uint8Array(buffer);

/** Random blocks of a type. */
export function stored(form: StoredForm, values: number, seed: number): Uint8Array {
  const floats = gaussian(seed, values, deviation);
  if (!isGgmlForm(form)) return bytesOf(floats);
  if (form === "f16" || form === "bf16") return halfBytes(Uint16Array.from(floats, form === "f16" ? f16Bits : bf16Bits));
  const next = uniform(seed);
  const bytes = Uint8Array.from({ length: storedBytes(form, values) }, () => 256 * next());
  const view = new DataView(bytes.buffer) as DataView & { setFloat16(at: number, value: number, little: boolean): void };
  for (let at = 0; at < bytes.length; at += ggmlFormats[form].bytes) {
    for (const [offset, scale] of Object.entries(scales[form] ?? {})) view.setFloat16(at + Number(offset), scale, true);
    if (form === "mxfp4") bytes[at] = 121;
  }
  return bytes;
}

interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}
type ToHf = (values: Float32Array) => Readonly<Record<string, Tensor>>;

interface Part {
  /** GGUF's name. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly form: StoredForm;
  /** The tensors of Hugging Face that it is; given with all values of the layer where one alone is none. */
  readonly hf: ToHf;
}

export interface Published {
  readonly metadata: Readonly<Record<string, GgufMeta>>;
  readonly parts: readonly Part[];
  /** config.json as it is published beside the safetensors. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Tensors of Hugging Face that come from several of GGUF. */
  readonly joined?: (values: ReadonlyMap<string, Float32Array>) => Readonly<Record<string, Tensor>>;
}

const whole = (name: string, hf: string, shape: readonly number[], form: StoredForm = "f32"): Part => ({
  ...{ name, shape, form },
  hf: (values) => ({ [hf]: { shape, values } }),
});

/** Rows of queries or keys whose rotary pairs are next to each other, as llama's are. */
const pairs = (name: string, hf: string, [rows = 0, columns = 0]: readonly number[], heads: number, form: StoredForm): Part => ({
  ...{ name, shape: [rows, columns], form },
  hf(values) {
    const [out, each] = [new Float32Array(values.length), rows / heads];
    for (let row = 0; row < rows; row++) {
      const within = row % each;
      const to = row - within + (within % 2) * (each / 2) + Math.floor(within / 2);
      out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
    }
    return { [hf]: { shape: [rows, columns], values: out } };
  },
});

const stack = (name: string, hf: (expert: number) => string, shape: readonly number[], form: StoredForm = "f32"): Part => ({
  ...{ name, shape, form },
  hf(values) {
    const [experts = 1, ...rest] = shape;
    const each = values.length / experts;
    return Object.fromEntries(
      Array.from({ length: experts }, (_, e) => [hf(e), { shape: rest, values: values.subarray(e * each, (e + 1) * each) }] as const),
    );
  },
});

const nothing: ToHf = () => ({});
const vocab = 320;
const layersOf = (count: number, of: (layer: number, blk: string, hf: string) => readonly Part[]): readonly Part[] =>
  Array.from({ length: count }, (_, layer) => of(layer, `blk.${layer}`, `model.layers.${layer}`)).flat();
const prefixed = (architecture: string, values: Readonly<Record<string, GgufMeta>>): Readonly<Record<string, GgufMeta>> => ({
  "general.architecture": architecture,
  ...Object.fromEntries(Object.entries(values).map(([key, value]) => [`${architecture}.${key}`, value])),
});
const ends = (hidden: number, table: StoredForm, head: StoredForm): readonly Part[] => [
  whole("token_embd.weight", "model.embed_tokens.weight", [vocab, hidden], table),
  whole("output_norm.weight", "model.norm.weight", [hidden]),
  whole("output.weight", "lm_head.weight", [vocab, hidden], head),
];

/** Mixtral as Q4_K_M: down projections of half of the layers, values and head in finer types. */
function mixtral(): Published {
  const [hidden, ffn, experts, heads, kv] = [256, 256, 4, 4, 2];
  const metadata = prefixed("llama", {
    ...{
      block_count: 2,
      context_length: 512,
      embedding_length: hidden,
      feed_forward_length: ffn,
      expert_count: experts,
      vocab_size: vocab,
    },
    ...{ expert_used_count: 2, "attention.head_count": heads, "attention.head_count_kv": kv, "rope.dimension_count": hidden / heads },
    ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1_000_000 },
  });
  const config = {
    ...{ architectures: ["MixtralForCausalLM"], model_type: "mixtral", hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab },
    ...{ num_hidden_layers: 2, num_attention_heads: heads, num_key_value_heads: kv, num_local_experts: experts, num_experts_per_tok: 2 },
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null, tie_word_embeddings: false },
  };
  const kvRows = (hidden / heads) * kv;
  const parts = layersOf(2, (layer, blk, hf) => {
    const at = `${hf}.block_sparse_moe`;
    const matrix = (w: string) => (e: number) => `${at}.experts.${e}.${w}.weight`;
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      pairs(`${blk}.attn_q.weight`, `${hf}.self_attn.q_proj.weight`, [hidden, hidden], heads, "q4_K"),
      pairs(`${blk}.attn_k.weight`, `${hf}.self_attn.k_proj.weight`, [kvRows, hidden], kv, "q8_0"),
      whole(`${blk}.attn_v.weight`, `${hf}.self_attn.v_proj.weight`, [kvRows, hidden], "q8_0"),
      whole(`${blk}.attn_output.weight`, `${hf}.self_attn.o_proj.weight`, [hidden, hidden], "q5_K"),
      whole(`${blk}.ffn_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      whole(`${blk}.ffn_gate_inp.weight`, `${at}.gate.weight`, [experts, hidden]),
      stack(`${blk}.ffn_gate_exps.weight`, matrix("w1"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_up_exps.weight`, matrix("w3"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_down_exps.weight`, matrix("w2"), [experts, hidden, ffn], layer === 0 ? "q6_K" : "q4_K"),
    ];
  });
  return { metadata, config, parts: [...ends(hidden, "q4_K", "q6_K"), ...parts] };
}

/** gpt-oss as it is published: experts in MXFP4, matrices beside them in q8_0, biases in f32. */
function gptOss(): Published {
  const [hidden, ffn, experts, heads, kv, head] = [96, 64, 4, 4, 2, 16];
  const metadata = prefixed("gpt-oss", {
    ...{ block_count: 2, context_length: 512, embedding_length: hidden, feed_forward_length: ffn, expert_feed_forward_length: ffn },
    ...{ expert_count: experts, expert_used_count: 2, "attention.head_count": heads, "attention.head_count_kv": kv },
    ...{ "attention.key_length": head, "attention.value_length": head, "attention.sliding_window": 24, "rope.freq_base": 150_000 },
    ...{ "attention.layer_norm_rms_epsilon": 1e-5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4 },
    "rope.scaling.original_context_length": 128,
  });
  const config = {
    ...{ architectures: ["GptOssForCausalLM"], model_type: "gpt_oss", hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab },
    ...{ num_hidden_layers: 2, num_attention_heads: heads, num_key_value_heads: kv, head_dim: head, num_local_experts: experts },
    ...{ num_experts_per_tok: 2, max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 150_000, sliding_window: 24 },
    ...{ attention_bias: true, layer_types: ["sliding_attention", "full_attention"], swiglu_limit: 7, tie_word_embeddings: false },
    rope_scaling: {
      ...{ rope_type: "yarn", factor: 4, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 128 },
    },
  };
  const parts = layersOf(2, (_, blk, hf) => {
    const biased = (name: string, as: string, shape: readonly [number, number]) => [
      whole(`${blk}.${name}.weight`, `${hf}.${as}.weight`, shape, name === "ffn_gate_inp" ? "f32" : "q8_0"),
      whole(`${blk}.${name}.bias`, `${hf}.${as}.bias`, [shape[0]]),
    ];
    const experted = (name: string, [rows, columns]: readonly [number, number]) => {
      const as = (kind: string) => (e: number) => `${hf}.mlp.experts.${e}.${name}_proj.${kind}`;
      return [
        stack(`${blk}.ffn_${name}_exps.weight`, as("weight"), [experts, rows, columns], "mxfp4"),
        stack(`${blk}.ffn_${name}_exps.bias`, as("bias"), [experts, rows]),
      ];
    };
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      ...biased("attn_q", "self_attn.q_proj", [heads * head, hidden]),
      ...biased("attn_k", "self_attn.k_proj", [kv * head, hidden]),
      ...biased("attn_v", "self_attn.v_proj", [kv * head, hidden]),
      ...biased("attn_output", "self_attn.o_proj", [hidden, heads * head]),
      whole(`${blk}.attn_sinks.weight`, `${hf}.self_attn.sinks`, [heads]),
      whole(`${blk}.post_attention_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      ...biased("ffn_gate_inp", "mlp.router", [experts, hidden]),
      ...experted("gate", [ffn, hidden]),
      ...experted("up", [ffn, hidden]),
      ...experted("down", [hidden, ffn]),
    ];
  });
  return { metadata, config, parts: [...ends(hidden, "q8_0", "q8_0"), ...parts] };
}

const mla = { hidden: 256, ffn: 96, dense: 256, experts: 8, heads: 4, lora: 128, queries: 64, still: 32, turned: 16, value: 32 };

/** `heads`: those of the latent's keys and values apart, as files since 2025 have them. */
function deepseek(version: 2 | 3, heads: "apart" | "whole"): Published {
  const { hidden, ffn, dense, experts, lora, queries, still, turned, value } = mla;
  const three = version === 3;
  const metadata = prefixed("deepseek2", {
    ...{ block_count: 2, context_length: 512, embedding_length: hidden, feed_forward_length: dense, expert_feed_forward_length: ffn },
    ...{ leading_dense_block_count: 1, vocab_size: vocab, expert_count: experts, expert_used_count: 3, expert_shared_count: three ? 1 : 2 },
    ...{ expert_weights_scale: three ? 2.5 : 1, expert_gating_func: three ? 2 : 1, "attention.head_count": mla.heads },
    ...(three ? { expert_weights_norm: true, expert_group_count: 4, expert_group_used_count: 2, "attention.q_lora_rank": queries } : {}),
    ...(heads === "apart"
      ? {
          ...{ "attention.head_count_kv": 1, "attention.key_length": lora + turned, "attention.value_length": lora },
          ...{ "attention.key_length_mla": still + turned, "attention.value_length_mla": value },
        }
      : { "attention.head_count_kv": mla.heads, "attention.key_length": still + turned, "attention.value_length": value }),
    ...{ "attention.kv_lora_rank": lora, "rope.dimension_count": turned, "rope.freq_base": 10_000 },
    ...{ "attention.layer_norm_rms_epsilon": 1e-6, "rope.scaling.type": "yarn", "rope.scaling.factor": 4 },
    ...{ "rope.scaling.original_context_length": 128, "rope.scaling.yarn_log_multiplier": three ? 0.1 : 0.0707 },
  });
  const mscale = three ? 1 : 707 / 1000;
  const config = {
    ...{ architectures: [`DeepseekV${version}ForCausalLM`], model_type: `deepseek_v${version}`, hidden_size: hidden, vocab_size: vocab },
    ...{ intermediate_size: dense, moe_intermediate_size: ffn, num_hidden_layers: 2, num_attention_heads: mla.heads, moe_layer_freq: 1 },
    ...{ num_key_value_heads: mla.heads, n_routed_experts: experts, num_experts_per_tok: 3, n_shared_experts: three ? 1 : 2 },
    ...{ first_k_dense_replace: 1, q_lora_rank: three ? queries : null, kv_lora_rank: lora, qk_nope_head_dim: still },
    ...{ qk_rope_head_dim: turned, v_head_dim: value, norm_topk_prob: three, routed_scaling_factor: three ? 2.5 : 1, rope_theta: 10_000 },
    ...(three
      ? { topk_method: "noaux_tc", scoring_func: "sigmoid", n_group: 4, topk_group: 2 }
      : { topk_method: "greedy", scoring_func: "softmax", n_group: 1, topk_group: 1 }),
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-6, tie_word_embeddings: false, attention_bias: false },
    rope_scaling: {
      ...{ type: "yarn", factor: 4, beta_fast: 32, beta_slow: 1, mscale, mscale_all_dim: mscale, original_max_position_embeddings: 128 },
    },
  };
  const parts = layersOf(2, (layer, blk, hf) => {
    const at = `${hf}.self_attn`;
    const wide = mla.heads * (still + turned);
    const query = three
      ? [
          whole(`${blk}.attn_q_a.weight`, `${at}.q_a_proj.weight`, [queries, hidden], "q4_K"),
          whole(`${blk}.attn_q_a_norm.weight`, `${at}.q_a_layernorm.weight`, [queries]),
          whole(`${blk}.attn_q_b.weight`, `${at}.q_b_proj.weight`, [wide, queries], "q8_0"),
        ]
      : [whole(`${blk}.attn_q.weight`, `${at}.q_proj.weight`, [wide, hidden], "q4_K")];
    const latent =
      heads === "apart"
        ? [
            { name: `${blk}.attn_k_b.weight`, shape: [mla.heads, lora, still], form: "q8_0" as const, hf: nothing },
            { name: `${blk}.attn_v_b.weight`, shape: [mla.heads, value, lora], form: "q8_0" as const, hf: nothing },
          ]
        : [whole(`${blk}.attn_kv_b.weight`, `${at}.kv_b_proj.weight`, [mla.heads * (still + value), lora], "q8_0")];
    const gated = (from: string, to: string, width: number, down: StoredForm) => [
      whole(`${blk}.ffn_gate${from}.weight`, `${hf}.mlp.${to}gate_proj.weight`, [width, hidden], "q4_K"),
      whole(`${blk}.ffn_up${from}.weight`, `${hf}.mlp.${to}up_proj.weight`, [width, hidden], "q4_K"),
      whole(`${blk}.ffn_down${from}.weight`, `${hf}.mlp.${to}down_proj.weight`, [hidden, width], down),
    ];
    const matrix = (name: string) => (e: number) => `${hf}.mlp.experts.${e}.${name}_proj.weight`;
    const routed = [
      whole(`${blk}.ffn_gate_inp.weight`, `${hf}.mlp.gate.weight`, [experts, hidden]),
      ...(three ? [whole(`${blk}.exp_probs_b.bias`, `${hf}.mlp.gate.e_score_correction_bias`, [experts])] : []),
      stack(`${blk}.ffn_gate_exps.weight`, matrix("gate"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_up_exps.weight`, matrix("up"), [experts, ffn, hidden], "q4_K"),
      stack(`${blk}.ffn_down_exps.weight`, matrix("down"), [experts, hidden, ffn], "q5_0"), // rows of no 256 values
      ...gated("_shexp", "shared_experts.", ffn * (three ? 1 : 2), "q8_0"),
    ];
    return [
      whole(`${blk}.attn_norm.weight`, `${hf}.input_layernorm.weight`, [hidden]),
      ...query,
      whole(`${blk}.attn_kv_a_mqa.weight`, `${at}.kv_a_proj_with_mqa.weight`, [lora + turned, hidden], "q8_0"),
      whole(`${blk}.attn_kv_a_norm.weight`, `${at}.kv_a_layernorm.weight`, [lora]),
      ...latent,
      whole(`${blk}.attn_output.weight`, `${at}.o_proj.weight`, [hidden, mla.heads * value], "q8_0"),
      whole(`${blk}.ffn_norm.weight`, `${hf}.post_attention_layernorm.weight`, [hidden]),
      ...(layer === 0 ? gated("", "", dense, "q6_K") : routed),
    ];
  });
  const whole2 = { metadata, config, parts: [...ends(hidden, "q4_K", "q6_K"), ...parts] };
  return heads === "apart" ? { ...whole2, joined: latentHeads } : whole2;
}

/** Of each head, the rows of its keys and then those of its values. */
function latentHeads(values: ReadonlyMap<string, Float32Array>): Readonly<Record<string, Tensor>> {
  const { heads, lora, still, value } = mla;
  const out: Record<string, Tensor> = {};
  for (const layer of [0, 1]) {
    const [k, v] = [values.get(`blk.${layer}.attn_k_b.weight`)!, values.get(`blk.${layer}.attn_v_b.weight`)!];
    const whole: number[] = [];
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < still; row++) for (let c = 0; c < lora; c++) whole.push(k[(head * lora + c) * still + row]!);
      whole.push(...v.subarray(head * value * lora, (head + 1) * value * lora));
    }
    out[`model.layers.${layer}.self_attn.kv_b_proj.weight`] = {
      shape: [heads * (still + value), lora],
      values: Float32Array.from(whole),
    };
  }
  return out;
}

export const published: Readonly<Record<string, () => Published>> = {
  "Mixtral, Q4_K_M": mixtral,
  "gpt-oss, MXFP4": gptOss,
  "DeepSeek-V2-Lite, Q4_K_M, with whole latents": () => deepseek(2, "whole"),
  "DeepSeek-V3, Q4_K_M, with heads of latents apart": () => deepseek(3, "apart"),
};

/** The file, and the tensors that it means. */
export async function publishedFile({
  metadata,
  parts,
  joined,
}: Published): Promise<{ gguf: Buffer; hf: Readonly<Record<string, Tensor>> }> {
  const tensors: GgufTensorToWrite[] = [];
  const values = new Map<string, Float32Array>();
  const hf: Record<string, Tensor> = {};
  for (const [seed, { name, shape, form, hf: toHf }] of parts.entries()) {
    const count = shape.reduce((a, b) => a * b, 1);
    const norm = /norm\.weight$/.test(name);
    const data = norm ? bytesOf(gaussian(seed, count, 0.1).map((value) => 1 + value)) : stored(form, count, seed);
    tensors.push({ name, shape, type: isGgmlForm(form) ? ggmlFormats[form].type : 0, data });
    values.set(name, widenStored(form, data));
    Object.assign(hf, toHf(values.get(name)!));
  }
  Object.assign(hf, joined?.(values));
  return { gguf: ggufBytes({ ...metadata, ...(await tokenizerMetadata()) }, tensors), hf };
}

/** Writes both forms of a model into a folder: `model.gguf`, and the Hugging Face folder `hf`, without a tokenizer. */
export async function writePublished(model: Published, folder: string): Promise<void> {
  const { gguf, hf } = await publishedFile(model);
  await mkdir(join(folder, "hf"), { recursive: true });
  await writeFile(join(folder, "model.gguf"), gguf);
  await writeFile(join(folder, "hf/config.json"), JSON.stringify(model.config));
  await writeSafetensors(
    join(folder, "hf/model.safetensors"),
    Object.entries(hf).map(([name, { shape, values }]) => ({ name, dtype: "F32", shape, read: async () => bytesOf(values) })),
  );
}
