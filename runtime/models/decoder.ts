// The common part of decoder-only families: the shared fields of their config.json and the wiring of embedding, attention and head.
// Not here: what differs (experts, routers, dense FFN): mixtral.ts, llama.ts. Pure.
import { z } from "zod";
import type { Op, Segment, WeightDecl } from "../kernels/segment.ts";
import { unsupported } from "./family.ts";

const ropeTypesPlain = ["default", undefined];
/** The names that transformers has for x * sigmoid(x). */
const siluNames = ["silu", "swish"];

const ropeSchema = z
  .looseObject({
    rope_type: z.string().optional(),
    type: z.string().optional(),
    rope_theta: z.number().positive().optional(),
    partial_rotary_factor: z.number().optional(),
  })
  .nullish();

/** Fields of config.json with Hugging Face's defaults where a checkpoint may leave them out. */
export const decoderFields = {
  hidden_size: z.number().int().min(1).max(65536),
  intermediate_size: z.number().int().min(1).max(262144),
  num_hidden_layers: z.number().int().min(1).max(1024),
  num_attention_heads: z.number().int().min(1).max(1024),
  num_key_value_heads: z.number().int().min(1).max(1024).nullish(),
  head_dim: z.number().int().min(2).max(1024).nullish(),
  vocab_size: z.number().int().min(1).max(2_000_000),
  max_position_embeddings: z.number().int().min(1).max(16_777_216),
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().nullish(),
  rope_parameters: ropeSchema,
  rope_scaling: ropeSchema,
  partial_rotary_factor: z.number().nullish(),
  hidden_act: z.string(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  sliding_window: z.number().int().min(1).nullish(),
};
export type DecoderConfig = z.infer<z.ZodObject<typeof decoderFields>>;

/** The ways in which transformers' families read the same fields differently. */
export interface FamilyReading {
  /** `rope_theta` where a config has none. */
  readonly ropeBase: number;
  /** Heads of keys and values where a config has no such field; unset: as many as heads, which null means in every family. */
  readonly kvHeads?: number;
  /** Whether attention keeps to `sliding_window`. */
  readonly windowed: boolean;
}

export interface DecoderDims {
  readonly layers: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxContext: number;
  readonly eps: number;
  readonly ropeBase: number;
  readonly window: number;
  readonly tied: boolean;
}

/** The base of the rotation. Like transformers, takes `rope_scaling` in place of `rope_parameters` where it says anything. */
function ropeBaseOf(config: DecoderConfig, familyBase: number): number {
  for (const field of ["rope_parameters", "rope_scaling"] as const) {
    const rope = config[field];
    const type = rope?.rope_type ?? rope?.type;
    if (!ropeTypesPlain.includes(type)) throw unsupported(`${field}.rope_type`, type, '"default"');
    const nested = Object.entries(rope ?? {}).find(([, value]) => typeof value === "object" && value !== null);
    if (nested) throw unsupported(`${field}.${nested[0]}`, nested[1], "one rotation for all layers");
    checkWholeRotation(`${field}.partial_rotary_factor`, rope?.partial_rotary_factor);
  }
  checkWholeRotation("partial_rotary_factor", config.partial_rotary_factor);
  const scaling = config.rope_scaling;
  const rope = scaling && Object.keys(scaling).length > 0 ? scaling : config.rope_parameters;
  return rope?.rope_theta ?? config.rope_theta ?? familyBase;
}

function checkWholeRotation(field: string, factor: number | null | undefined): void {
  if ((factor ?? 1) !== 1) throw unsupported(field, factor, "1, a rotation of whole heads");
}

/** Dimensions of a parsed config; throws `UnsupportedModel` for anything that the ops would compute wrongly. */
export function decoderDims(config: DecoderConfig, family: FamilyReading): DecoderDims {
  const absent = config.num_key_value_heads === undefined ? family.kvHeads : undefined;
  const kvHeads = config.num_key_value_heads ?? absent ?? config.num_attention_heads;
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads;
  if (!Number.isInteger(headDim)) {
    throw unsupported(
      "hidden_size",
      config.hidden_size,
      `a multiple of num_attention_heads (${config.num_attention_heads}), or head_dim set`,
    );
  }
  if (headDim % 2 !== 0) throw unsupported("head_dim", headDim, "an even number (rotary embedding turns pairs)");
  if (config.num_attention_heads % kvHeads !== 0) {
    const field = `num_key_value_heads${absent === undefined ? "" : " (absent, so the family's default)"}`;
    throw unsupported(field, kvHeads, `a divisor of num_attention_heads (${config.num_attention_heads})`);
  }
  if (!siluNames.includes(config.hidden_act))
    throw unsupported("hidden_act", config.hidden_act, siluNames.map((name) => `"${name}"`).join(" or "));
  if (config.attention_bias) throw unsupported("attention_bias", true, "false");
  return {
    layers: config.num_hidden_layers,
    hidden: config.hidden_size,
    ffn: config.intermediate_size,
    vocab: config.vocab_size,
    heads: config.num_attention_heads,
    kvHeads,
    headDim,
    maxContext: config.max_position_embeddings,
    eps: config.rms_norm_eps,
    ropeBase: ropeBaseOf(config, family.ropeBase),
    window: family.windowed ? (config.sliding_window ?? 0) : 0,
    tied: config.tie_word_embeddings ?? false,
  };
}

export const embedTable = "model.embed_tokens.weight";
export const headMatrix = "lm_head.weight";

/** ids [n] -> x [n, hidden] */
export function embedSegment(dims: DecoderDims): Segment {
  return {
    name: "embed",
    inputs: [{ name: "ids", dtype: "i32", width: 0 }],
    outputs: [{ name: "x", dtype: "f32", width: dims.hidden }],
    weights: [{ name: embedTable, shape: [dims.vocab, dims.hidden] }],
    ops: [{ op: "gather", ids: "ids", table: embedTable, out: "x" }],
  };
}

/** x [n, hidden] -> logits [n, vocab]; a tied model reads the embedding table. */
export function headSegment(dims: DecoderDims): Segment {
  const weight = dims.tied ? embedTable : headMatrix;
  return {
    name: "head",
    inputs: [{ name: "x", dtype: "f32", width: dims.hidden }],
    outputs: [{ name: "logits", dtype: "f32", width: dims.vocab }],
    weights: [
      { name: "model.norm.weight", shape: [dims.hidden] },
      { name: weight, shape: [dims.vocab, dims.hidden] },
    ],
    ops: [
      { op: "rmsNorm", x: "x", weight: "model.norm.weight", eps: dims.eps, out: "normed" },
      { op: "matMul", x: "normed", weight, out: "logits" },
    ],
  };
}

/** x -> h (residual after attention) and f (normed FFN input): the part of a layer before its FFN or router. */
export function attentionPart(dims: DecoderDims, layer: number): { weights: WeightDecl[]; ops: Op[] } {
  const at = (name: string) => `model.layers.${layer}.${name}.weight`;
  const q = dims.heads * dims.headDim;
  const kv = dims.kvHeads * dims.headDim;
  return {
    weights: [
      { name: at("input_layernorm"), shape: [dims.hidden] },
      { name: at("self_attn.q_proj"), shape: [q, dims.hidden] },
      { name: at("self_attn.k_proj"), shape: [kv, dims.hidden] },
      { name: at("self_attn.v_proj"), shape: [kv, dims.hidden] },
      { name: at("self_attn.o_proj"), shape: [dims.hidden, q] },
      { name: at("post_attention_layernorm"), shape: [dims.hidden] },
    ],
    ops: [
      { op: "rmsNorm", x: "x", weight: at("input_layernorm"), eps: dims.eps, out: "a" },
      { op: "matMul", x: "a", weight: at("self_attn.q_proj"), out: "q" },
      { op: "matMul", x: "a", weight: at("self_attn.k_proj"), out: "k" },
      { op: "matMul", x: "a", weight: at("self_attn.v_proj"), out: "v" },
      {
        op: "attention",
        q: "q",
        k: "k",
        v: "v",
        layer,
        heads: dims.heads,
        kvHeads: dims.kvHeads,
        headDim: dims.headDim,
        ropeBase: dims.ropeBase,
        scale: 1 / Math.sqrt(dims.headDim),
        window: dims.window,
        out: "o",
      },
      { op: "matMul", x: "o", weight: at("self_attn.o_proj"), out: "p" },
      { op: "add", a: "x", b: "p", out: "h" },
      { op: "rmsNorm", x: "h", weight: at("post_attention_layernorm"), eps: dims.eps, out: "f" },
    ],
  };
}

/** y = w2 (silu(w1 x) * w3 x): the gated FFN over the named input and weights. */
export function gatedFfnOps(x: string, w: { readonly w1: string; readonly w2: string; readonly w3: string }, out: string): Op[] {
  return [
    { op: "matMul", x, weight: w.w1, out: "g" },
    { op: "matMul", x, weight: w.w3, out: "u" },
    { op: "siluMul", a: "g", b: "u", out: "m" },
    { op: "matMul", x: "m", weight: w.w2, out },
  ];
}
