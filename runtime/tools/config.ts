// The fields of config.json that the tools need, checked, for both families they know: Llama (dense) and Mixtral (MoE). Pure.
// The engine's own reading of the stored config.json is runtime/models.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";

const size = z.number().int().min(1).max(1_048_576);

const common = {
  architectures: z.array(z.string()).min(1),
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: z.number().int().min(1).max(1024),
  num_attention_heads: size,
  num_key_value_heads: size.optional(),
  head_dim: size.nullish(),
  vocab_size: size,
  rms_norm_eps: z.number().positive().default(1e-5),
  rope_theta: z.number().positive().optional(),
  rope_parameters: z.looseObject({ rope_theta: z.number().positive().optional(), rope_type: z.string().optional() }).nullish(),
  rope_scaling: z.unknown().optional(),
  max_position_embeddings: size,
  hidden_act: z.string().default("silu"),
  tie_word_embeddings: z.boolean().default(false),
};

const llamaSchema = z.looseObject({ ...common, attention_bias: z.boolean().default(false), mlp_bias: z.boolean().default(false) });
const mixtralSchema = z.looseObject({
  ...common,
  num_local_experts: z.number().int().min(1).max(4096),
  num_experts_per_tok: z.number().int().min(1).max(64),
});

export type LlamaConfig = z.infer<typeof llamaSchema>;
export type MixtralConfig = z.infer<typeof mixtralSchema>;

export const denseArchitecture = "LlamaForCausalLM";
export const moeArchitecture = "MixtralForCausalLM";

export function architectureOf(config: unknown, where: string): string {
  const parsed = z.looseObject({ architectures: z.array(z.string()).min(1) }).safeParse(config);
  if (!parsed.success) throw new AppError(`${where}: config.json has no "architectures"`, { code: "BadModelConfig" });
  return parsed.data.architectures[0] as string;
}

function parse<T>(schema: z.ZodType<T>, config: unknown, where: string): T {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new AppError(`${where}: config.json: field ${issue?.path.join(".") || "(root)"}: ${issue?.message ?? "invalid"}`, {
    code: "BadModelConfig",
  });
}

/** What no backend computes yet is refused here, by name, rather than computed wrongly. */
function refuse(config: LlamaConfig | MixtralConfig, where: string): void {
  const unsupported = (field: string, value: unknown) =>
    new AppError(`${where}: config.json: ${field} = ${JSON.stringify(value)} is not supported`, { code: "UnsupportedModel" });
  if (config.hidden_act !== "silu") throw unsupported("hidden_act", config.hidden_act);
  if (config.rope_scaling !== undefined && config.rope_scaling !== null) throw unsupported("rope_scaling", config.rope_scaling);
  const type = config.rope_parameters?.rope_type;
  if (type !== undefined && type !== "default") throw unsupported("rope_parameters.rope_type", type);
  for (const field of ["attention_bias", "mlp_bias"]) if (config[field] === true) throw unsupported(field, true);
}

export function parseLlamaConfig(config: unknown, where: string): LlamaConfig {
  const parsed = parse(llamaSchema, config, where);
  refuse(parsed, where);
  return parsed;
}

export function parseMixtralConfig(config: unknown, where: string): MixtralConfig {
  const parsed = parse(mixtralSchema, config, where);
  refuse(parsed, where);
  if (parsed.num_experts_per_tok > parsed.num_local_experts) {
    throw new AppError(
      `${where}: config.json: num_experts_per_tok ${parsed.num_experts_per_tok} exceeds num_local_experts ${parsed.num_local_experts}`,
      {
        code: "BadModelConfig",
      },
    );
  }
  return parsed;
}

/** Both generations of the rope field; the checkpoint's default when neither is there. */
export function ropeTheta(config: LlamaConfig | MixtralConfig, fallback: number): number {
  return config.rope_theta ?? config.rope_parameters?.rope_theta ?? fallback;
}
