// DeepSeek V2 and V3: multi-head latent attention, dense first layers, shared experts, group gates. Keys and values are expanded from
// their latents before they are cached.
import { z } from "zod";
import type { ModelProgram, Op, Rope } from "../kernels/segment.ts";
import {
  type DecoderDims,
  decoderDims,
  decoderFields,
  type FamilyReading,
  gatedFfnOps,
  inputNorm,
  joined,
  type Part,
  residualNorm,
} from "./decoder.ts";
import { architectureOf, type ModelFamily, parseConfig, unsupported } from "./family.ts";
import {
  denseLayer,
  expertCount,
  gatedExpert,
  gatedFfnWeights,
  mlpExpertTensors,
  moeLayer,
  moeProgram,
  projTensors,
  renamed,
  topKMax,
} from "./moe.ts";
import { rotationOf } from "./rotation.ts";

const v2 = "DeepseekV2ForCausalLM";
const v3 = "DeepseekV3ForCausalLM";

const reading: FamilyReading = { ropeBase: 1e4, yarn: true, windowed: false };
/** transformers uses this for latent norms whatever `rms_norm_eps` says. */
const latentEps = 1e-6;

const rank = z.number().int().min(1).max(65536);
const headSize = z.number().int().min(1).max(1024);
const count = z.number().int().min(1).max(4096);

const configSchema = z.looseObject({
  ...decoderFields,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  moe_intermediate_size: decoderFields.intermediate_size,
  n_routed_experts: expertCount,
  n_shared_experts: z.number().int().min(0).max(64).nullish(),
  num_experts_per_tok: z.number().int().min(1).max(topKMax),
  first_k_dense_replace: z.number().int().min(0).max(1024).nullish(),
  q_lora_rank: rank.nullable().default(1536),
  kv_lora_rank: rank.default(512),
  qk_nope_head_dim: headSize.default(128),
  qk_rope_head_dim: headSize.multipleOf(2).default(64),
  v_head_dim: headSize.default(128),
  n_group: count.nullish(),
  topk_group: count.nullish(),
  topk_method: z.string().nullish(),
  scoring_func: z.string().nullish(),
  norm_topk_prob: z.boolean().nullish(),
  routed_scaling_factor: z.number().positive().nullish(),
  rope_interleave: z.boolean().nullish(),
  moe_layer_freq: z.number().nullish(),
  mlp_bias: z.boolean().nullish(),
  num_nextn_predict_layers: z.number().int().min(0).max(64).nullish(),
});
type Config = z.infer<typeof configSchema>;

type Gate = Omit<Extract<Op, { op: "groupRoute" }>, "op" | "logits" | "bias" | "ids" | "gates">;

function refuseOther(field: keyof Config & string, found: unknown, supported: unknown): void {
  if (found != null && found !== supported) throw unsupported(field, found, JSON.stringify(supported));
}

function groupsOf(config: Config, versionThree: boolean): Pick<Gate, "groups" | "groupsKept" | "groupTop"> {
  const { n_routed_experts: experts, num_experts_per_tok: topK } = config;
  const method = config.topk_method ?? (versionThree ? "noaux_tc" : "greedy");
  const known = versionThree ? ["noaux_tc"] : ["greedy", "group_limited_greedy"];
  if (!known.includes(method)) throw unsupported("topk_method", method, known.map((each) => `"${each}"`).join(" or "));
  if (method === "greedy") return { groups: 1, groupsKept: 1, groupTop: 1 };
  const groups = config.n_group ?? (versionThree ? 8 : 1);
  const groupsKept = config.topk_group ?? (versionThree ? 4 : 1);
  const groupTop = versionThree ? 2 : 1;
  if (experts % groups !== 0 || experts / groups < groupTop)
    throw unsupported("n_group", groups, `a divisor of n_routed_experts (${experts}) that leaves at least ${groupTop} experts in a group`);
  if (groupsKept > groups || (groupsKept * experts) / groups < topK)
    throw unsupported("topk_group", groupsKept, `groups enough for num_experts_per_tok (${topK}), and at most n_group (${groups})`);
  return { groups, groupsKept, groupTop };
}

function gateOf(config: Config, versionThree: boolean): Gate {
  const { n_routed_experts: experts, num_experts_per_tok: topK } = config;
  if (topK > experts) throw unsupported("num_experts_per_tok", topK, `at most n_routed_experts (${experts})`);
  refuseOther("scoring_func", config.scoring_func, versionThree ? "sigmoid" : "softmax");
  refuseOther("moe_layer_freq", config.moe_layer_freq, 1);
  refuseOther("mlp_bias", config.mlp_bias, false);
  if (!versionThree) refuseOther("norm_topk_prob", config.norm_topk_prob, false);
  return {
    sigmoid: versionThree,
    topK,
    ...groupsOf(config, versionThree),
    normalize: config.norm_topk_prob ?? versionThree,
    scale: config.routed_scaling_factor ?? (versionThree ? 2.5 : 1),
  };
}

interface Latent {
  readonly config: Config;
  readonly dims: DecoderDims;
  readonly rope: Rope;
  readonly sharpening: number;
}

function queries(at: string, { config, dims: { heads, hidden } }: Latent): Part {
  const width = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim);
  const lora = config.q_lora_rank;
  const [whole, down, norm, up] = ["q_proj", "q_a_proj", "q_a_layernorm", "q_b_proj"].map((name) => `${at}.${name}.weight`) as [
    string,
    string,
    string,
    string,
  ];
  if (lora === null)
    return { weights: [{ name: whole, shape: [width, hidden] }], ops: [{ op: "matMul", x: "a", weight: whole, out: "q" }] };
  return {
    weights: [
      { name: down, shape: [lora, hidden] },
      { name: norm, shape: [lora] },
      { name: up, shape: [width, lora] },
    ],
    ops: [
      { op: "matMul", x: "a", weight: down, out: "q.latent" },
      { op: "rmsNorm", x: "q.latent", weight: norm, eps: latentEps, out: "q.normed" },
      { op: "matMul", x: "q.normed", weight: up, out: "q" },
    ],
  };
}

/** a -> k, v: one latent for both, and a rotated part of the key that all heads share. */
function keysAndValues(at: string, { config, dims: { heads, hidden } }: Latent): Part {
  const { kv_lora_rank: lora, qk_nope_head_dim: still, qk_rope_head_dim: turned, v_head_dim: value } = config;
  const [down, norm, up] = ["kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"].map((name) => `${at}.${name}.weight`) as [
    string,
    string,
    string,
  ];
  return {
    weights: [
      { name: down, shape: [lora + turned, hidden] },
      { name: norm, shape: [lora] },
      { name: up, shape: [heads * (still + value), lora] },
    ],
    ops: [
      { op: "matMul", x: "a", weight: down, out: "kv.a" },
      { op: "slice", x: "kv.a", heads: 1, from: 0, width: lora, out: "kv.latent" },
      { op: "slice", x: "kv.a", heads: 1, from: lora, width: turned, out: "k.turned" },
      { op: "rmsNorm", x: "kv.latent", weight: norm, eps: latentEps, out: "kv.normed" },
      { op: "matMul", x: "kv.normed", weight: up, out: "kv.b" },
      { op: "slice", x: "kv.b", heads, from: 0, width: still, out: "k.still" },
      { op: "slice", x: "kv.b", heads, from: still, width: value, out: "v" },
      { op: "joinHeads", x: "k.still", shared: "k.turned", heads, out: "k" },
    ],
  };
}

function latentAttention(layer: number, latent: Latent): Part {
  const { config, dims, rope, sharpening } = latent;
  const { heads, hidden } = dims;
  const at = `model.layers.${layer}.self_attn`;
  const headDim = config.qk_nope_head_dim + config.qk_rope_head_dim;
  const valueDim = config.v_head_dim;
  const out = `${at}.o_proj.weight`;
  const attention: Op = {
    op: "attention",
    q: "q",
    k: "k",
    v: "v",
    layer,
    heads,
    kvHeads: heads,
    headDim,
    valueDim,
    rope,
    scale: sharpening / Math.sqrt(headDim),
    window: 0,
    out: "o",
  };
  const output: Part = {
    weights: [{ name: out, shape: [hidden, heads * valueDim] }],
    ops: [attention, { op: "matMul", x: "o", weight: out, out: "p" }],
  };
  return joined(inputNorm(dims, layer), queries(at, latent), keysAndValues(at, latent), output, residualNorm(dims, layer));
}

/** Adds the shared experts, as one FFN of their summed width, to the residual h. */
function sharedExperts(layer: number, hidden: number, ffn: number): Part {
  const w = projTensors(`model.layers.${layer}.mlp.shared_experts`);
  return {
    weights: gatedFfnWeights(w, ffn, hidden),
    ops: [...gatedFfnOps("f", w, "beside"), { op: "add", a: "r", b: "beside", out: "h" }],
  };
}

function gatePart(
  layer: number,
  { gate, experts, hidden }: { readonly gate: Gate; readonly experts: number; readonly hidden: number },
): Part {
  const at = `model.layers.${layer}.mlp.gate`;
  const [weight, bias] = [`${at}.weight`, `${at}.e_score_correction_bias`];
  const route = { op: "groupRoute" as const, logits: "logits", ...gate, ids: "ids", gates: "gates" };
  return {
    weights: [{ name: weight, shape: [experts, hidden] }, ...(gate.sigmoid ? [{ name: bias, shape: [experts] }] : [])],
    ops: [{ op: "matMul", x: "f", weight, out: "logits" }, gate.sigmoid ? { ...route, bias } : route],
  };
}

function program(config: unknown): ModelProgram {
  const parsed = parseConfig(configSchema, config);
  const versionThree = architectureOf(config) === v3;
  refuseOther("num_key_value_heads", parsed.num_key_value_heads, parsed.num_attention_heads);
  const dims = decoderDims({ ...parsed, head_dim: parsed.qk_rope_head_dim }, reading);
  const { frequencies, factor, sharpening } = rotationOf(parsed, parsed.qk_rope_head_dim, reading);
  const gate = gateOf(parsed, versionThree);
  const { n_routed_experts: experts, moe_intermediate_size: ffn, qk_nope_head_dim: still, qk_rope_head_dim: turned } = parsed;
  const shared = (parsed.n_shared_experts === undefined ? (versionThree ? 1 : 2) : parsed.n_shared_experts) ?? 0;
  const rope: Rope = { frequencies, factor, from: still, interleaved: !versionThree || (parsed.rope_interleave ?? true) };
  const latent: Latent = { config: parsed, dims, rope, sharpening };
  const expert = gatedExpert(dims.hidden, ffn);
  const firstMoe = parsed.first_k_dense_replace ?? (versionThree ? 3 : 0);
  const made = moeProgram(deepseek.name, dims, (layer) => {
    const attention = latentAttention(layer, latent);
    if (layer < firstMoe) return denseLayer(layer, dims, attention);
    const beside = shared > 0 ? [renamed(attention, { h: "r" }), sharedExperts(layer, dims.hidden, shared * ffn)] : [attention];
    const parts = [...beside, gatePart(layer, { gate, experts, hidden: dims.hidden })];
    return moeLayer(layer, dims, parts, { experts, topK: gate.topK, expert, shared });
  });
  return { ...made, headDim: still + turned, valueDim: parsed.v_head_dim };
}

/** Layers after the last one that predict further tokens; serving ignores them. */
function needless(config: unknown): readonly string[] {
  const { num_hidden_layers: layers, num_nextn_predict_layers: more } = parseConfig(configSchema, config);
  return Array.from({ length: more ?? 0 }, (_, i) => `model.layers.${layers + i}.`);
}

export const deepseek: ModelFamily = {
  name: "deepseek",
  architectures: [v2, v3],
  program,
  expertTensors: mlpExpertTensors,
  needless,
};
