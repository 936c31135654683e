// The common part of decoder-only families: config.json, embedding, attention and head.
import { z } from "zod";
import type { Op, Rope, Segment, WeightDecl } from "../kernels/segment.ts";
import { unsupported } from "./family.ts";
import { halves, type RotationReading, rotationFields, rotationOf } from "./rotation.ts";

/** transformers' names for x * sigmoid(x). */
const siluNames = ["silu", "swish"];

/** Fields of config.json with Hugging Face's defaults. */
export const decoderFields = {
  hidden_size: z.number().int().min(1).max(65536),
  intermediate_size: z.number().int().min(1).max(262144),
  num_hidden_layers: z.number().int().min(1).max(1024),
  num_attention_heads: z.number().int().min(1).max(1024),
  num_key_value_heads: z.number().int().min(1).max(1024).nullish(),
  head_dim: z.number().int().min(2).max(1024).nullish(),
  vocab_size: z.number().int().min(1).max(2_000_000),
  rms_norm_eps: z.number().positive(),
  ...rotationFields,
  hidden_act: z.string(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  sliding_window: z.number().int().min(1).nullish(),
};
export type DecoderConfig = z.infer<z.ZodObject<typeof decoderFields>>;

export interface FamilyReading extends RotationReading {
  /** Unset: as many as heads, which null means in every family. */
  readonly kvHeads?: number;
  readonly windowed: boolean;
  /** Others refuse `attention_bias`. */
  readonly biased?: true;
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
  readonly rope: Rope;
  readonly window: number;
  readonly tied: boolean;
}

/** Throws `UnsupportedModel` for a config that the ops would compute wrongly. */
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
  if (config.attention_bias && !family.biased) throw unsupported("attention_bias", true, "false");
  const rotation = rotationOf(config, headDim, family);
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
    ropeBase: rotation.base,
    rope: halves(rotation),
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

export interface AttentionVariant {
  /** Normalizes queries and keys before rotation: by head or by row. */
  readonly qkNorm?: "heads" | "row";
  readonly biased?: boolean;
  readonly sinks?: boolean;
  readonly window?: number;
  readonly mixed?: Mixed;
}

/** Among the heads of one KV head, those of the first attention come first. */
interface Mixed {
  readonly attentions: number;
  readonly parts: number;
}

export interface Part {
  readonly weights: readonly WeightDecl[];
  readonly ops: readonly Op[];
}

function projection(at: string, shape: readonly [number, number], io: { readonly x: string; readonly out: string }, biased = false): Part {
  const [weight, row] = [`${at}.weight`, `${at}.bias`];
  if (!biased) return { weights: [{ name: weight, shape }], ops: [{ op: "matMul", x: io.x, weight, out: io.out }] };
  const plain = `${io.out}.plain`;
  return {
    weights: [
      { name: weight, shape },
      { name: row, shape: [shape[0]] },
    ],
    ops: [
      { op: "matMul", x: io.x, weight, out: plain },
      { op: "addRow", x: plain, row, out: io.out },
    ],
  };
}

function qkNorms(dims: DecoderDims, at: string, by: "heads" | "row"): Part {
  const norm = (name: string, x: string, heads: number, out: string): Part => {
    const weight = `${at}.${name}.weight`;
    const op: Op = { op: "rmsNorm", x, weight, eps: dims.eps, out };
    return by === "heads"
      ? { weights: [{ name: weight, shape: [dims.headDim] }], ops: [{ ...op, heads }] }
      : { weights: [{ name: weight, shape: [heads * dims.headDim] }], ops: [op] };
  };
  return joined(norm("q_norm", "q", dims.heads, "q.normed"), norm("k_norm", "k", dims.kvHeads, "k.normed"));
}

export function joined(...parts: readonly Part[]): Part {
  return { weights: parts.flatMap(({ weights }) => weights), ops: parts.flatMap(({ ops }) => ops) };
}

/** x -> a, the input of attention. */
export function inputNorm({ hidden, eps }: Pick<DecoderDims, "hidden" | "eps">, layer: number): Part {
  const weight = `model.layers.${layer}.input_layernorm.weight`;
  return { weights: [{ name: weight, shape: [hidden] }], ops: [{ op: "rmsNorm", x: "x", weight, eps, out: "a" }] };
}

/** x and p (the projected output of attention) -> h (the residual) and f (the input of FFN or router). */
export function residualNorm({ hidden, eps }: Pick<DecoderDims, "hidden" | "eps">, layer: number): Part {
  const weight = `model.layers.${layer}.post_attention_layernorm.weight`;
  return {
    weights: [{ name: weight, shape: [hidden] }],
    ops: [
      { op: "add", a: "x", b: "p", out: "h" },
      { op: "rmsNorm", x: "h", weight, eps, out: "f" },
    ],
  };
}

/** a and o (the heads of all attentions) -> o.mixed. */
function mixedHeads(at: string, { attentions, parts }: Mixed, hidden: number): Part {
  const weight = `${at}.gate.weight`;
  return {
    weights: [{ name: weight, shape: [attentions, hidden] }],
    ops: [
      { op: "matMul", x: "a", weight, out: "o.logits" },
      { op: "mixHeads", x: "o", logits: "o.logits", parts, out: "o.mixed" },
    ],
  };
}

/** x -> h (the residual after attention) and f (the normalized FFN input). */
export function attentionPart(dims: DecoderDims, layer: number, variant: AttentionVariant = {}): Part {
  const at = `model.layers.${layer}.self_attn`;
  const { heads, kvHeads, headDim, hidden, rope } = dims;
  const { biased, qkNorm, sinks, mixed } = variant;
  const attention: Op = {
    op: "attention",
    q: qkNorm ? "q.normed" : "q",
    k: qkNorm ? "k.normed" : "k",
    v: "v",
    layer,
    heads,
    kvHeads,
    headDim,
    valueDim: headDim,
    rope,
    scale: 1 / Math.sqrt(headDim),
    window: variant.window ?? dims.window,
    out: "o",
  };
  const sink = `${at}.sinks`;
  return joined(
    inputNorm(dims, layer),
    projection(`${at}.q_proj`, [heads * headDim, hidden], { x: "a", out: "q" }, biased),
    projection(`${at}.k_proj`, [kvHeads * headDim, hidden], { x: "a", out: "k" }, biased),
    projection(`${at}.v_proj`, [kvHeads * headDim, hidden], { x: "a", out: "v" }, biased),
    qkNorm ? qkNorms(dims, at, qkNorm) : { weights: [], ops: [] },
    sinks ? { weights: [{ name: sink, shape: [heads] }], ops: [{ ...attention, sinks: sink }] } : { weights: [], ops: [attention] },
    mixed ? mixedHeads(at, mixed, hidden) : { weights: [], ops: [] },
    projection(`${at}.o_proj`, [hidden, heads * headDim], { x: mixed ? "o.mixed" : "o", out: "p" }, biased),
    residualNorm(dims, layer),
  );
}

/** y = w2 (silu(w1 x) * w3 x), the gated FFN. */
export function gatedFfnOps(x: string, w: { readonly w1: string; readonly w2: string; readonly w3: string }, out: string): Op[] {
  return [
    { op: "matMul", x, weight: w.w1, out: "g" },
    { op: "matMul", x, weight: w.w3, out: "u" },
    { op: "siluMul", a: "g", b: "u", out: "m" },
    { op: "matMul", x: "m", weight: w.w2, out },
  ];
}
