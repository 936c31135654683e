// The rotary embedding of a config.json, resolved to frequencies and a factor, with the rounding of transformers.
import { z } from "zod";
import { inverseFrequencies } from "../kernels/rope.ts";
import type { Rope } from "../kernels/segment.ts";
import { unsupported } from "./family.ts";

const positive = z.number().positive();

const ropeSchema = z
  .looseObject({
    rope_type: z.string().optional(),
    type: z.string().optional(),
    rope_theta: positive.optional(),
    partial_rotary_factor: z.number().optional(),
    factor: z.number().min(1).nullish(),
    attention_factor: positive.nullish(),
    beta_fast: positive.nullish(),
    beta_slow: positive.nullish(),
    mscale: z.number().min(0).nullish(),
    mscale_all_dim: z.number().min(0).nullish(),
    original_max_position_embeddings: positive.nullish(),
    truncate: z.boolean().optional(),
    low_freq_factor: positive.nullish(),
    high_freq_factor: positive.nullish(),
  })
  .nullish();
type Parameters = NonNullable<z.infer<typeof ropeSchema>>;

export const rotationFields = {
  max_position_embeddings: z.number().int().min(1).max(16_777_216),
  rope_theta: positive.nullish(),
  rope_parameters: ropeSchema,
  rope_scaling: ropeSchema,
  partial_rotary_factor: z.number().nullish(),
  original_max_position_embeddings: positive.nullish(),
};
type RotationConfig = z.infer<z.ZodObject<typeof rotationFields>>;

export interface RotationReading {
  readonly ropeBase: number;
  /** Whether the family reads YaRN; others rotate plainly or are refused. */
  readonly yarn: boolean;
  /** Whether it reads the scaling of Llama 3.1. */
  readonly llama3?: boolean;
}

export interface Rotation {
  readonly base: number;
  readonly frequencies: readonly number[];
  /** See `Rope.factor`. */
  readonly factor: number;
  /** DeepSeek's extra factor of attention scores. */
  readonly sharpening: number;
}

function checkWholeRotation(field: string, factor: number | null | undefined): void {
  if ((factor ?? 1) !== 1) throw unsupported(field, factor, "1, a rotation of whole heads");
}

function parametersOf(config: RotationConfig, { yarn, llama3 = false }: RotationReading): Parameters {
  const known = ["default", ...(yarn ? ["yarn"] : []), ...(llama3 ? ["llama3"] : [])];
  for (const field of ["rope_parameters", "rope_scaling"] as const) {
    const rope = config[field];
    const type = rope?.rope_type ?? rope?.type ?? "default";
    if (!known.includes(type)) throw unsupported(`${field}.rope_type`, type, known.map((name) => `"${name}"`).join(" or "));
    const nested = Object.entries(rope ?? {}).find(([, value]) => typeof value === "object" && value !== null);
    if (nested) throw unsupported(`${field}.${nested[0]}`, nested[1], "one rotation for all layers");
    checkWholeRotation(`${field}.partial_rotary_factor`, rope?.partial_rotary_factor);
  }
  checkWholeRotation("partial_rotary_factor", config.partial_rotary_factor);
  const scaling = config.rope_scaling;
  return (scaling && Object.keys(scaling).length > 0 ? scaling : config.rope_parameters) ?? {};
}

function originalContext(config: RotationConfig, said: number | null | undefined): number {
  const own = config.original_max_position_embeddings;
  if (own != null && said != null && own !== said)
    throw unsupported("original_max_position_embeddings", own, `that of the rotation (${said}), or leave one of them out`);
  return own ?? said ?? config.max_position_embeddings;
}

/** YaRN's 0.1 m ln(s) + 1. */
const growth = (scale: number, m: number): number => (scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1);

interface Yarn {
  readonly base: number;
  readonly factor: number;
  readonly original: number;
  readonly betas: readonly [fast: number, slow: number];
  readonly truncate: boolean;
}

/** Pairs below the ramp keep their frequency, those above rotate `factor` times slower, those on it in between. */
function yarnFrequencies(dims: number, { base, factor, original, betas, truncate }: Yarn): number[] {
  const round = Math.fround;
  const pairAt = (turns: number): number => (dims * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const [first, last] = [pairAt(betas[0]), pairAt(betas[1])];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, dims - 1);
  const span = low === high ? 0.001 : high - low; // no division by 0
  return [...inverseFrequencies(dims, base)].map((own, i) => {
    const wave = round(round(base) ** round((2 * i) / dims));
    const slowed = round(1 / round(factor * wave));
    const ramp = Math.min(Math.max(round(round(i - round(low)) / round(span)), 0), 1);
    const kept = round(1 - ramp);
    return round(round(slowed * round(1 - kept)) + round(own * kept));
  });
}

/**
 * Wavelengths above the trained context over `low_freq_factor` rotate `factor` times slower, those below it over `high_freq_factor` stay,
 * and those between are interpolated.
 */
function llama3Frequencies(dims: number, base: number, parameters: Parameters): number[] {
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = parameters;
  if (factor == null || low == null || high == null || original == null || high <= low)
    throw unsupported("rope_parameters", parameters, "factor, low_freq_factor < high_freq_factor, original_max_position_embeddings");
  const round = Math.fround;
  return [...inverseFrequencies(dims, base)].map((own) => {
    const wave = round(round(2 * Math.PI) / own);
    if (wave > original / low) return round(own / round(factor));
    if (wave < original / high) return own;
    const kept = round(round(round(original / wave) - round(low)) / round(high - low));
    return round(round(round(round(1 - kept) * own) / round(factor)) + round(kept * own));
  });
}

/** Throws `UnsupportedModel` for a rotation that no op computes. */
export function rotationOf(config: RotationConfig, dims: number, reading: RotationReading): Rotation {
  const parameters = parametersOf(config, reading);
  const base = parameters.rope_theta ?? config.rope_theta ?? reading.ropeBase;
  const type = parameters.rope_type ?? parameters.type ?? "default";
  if (type === "default") return { base, frequencies: [...inverseFrequencies(dims, base)], factor: 1, sharpening: 1 };
  if (type === "llama3") return { base, frequencies: llama3Frequencies(dims, base, parameters), factor: 1, sharpening: 1 };
  const original = originalContext(config, parameters.original_max_position_embeddings);
  const factor = parameters.factor ?? config.max_position_embeddings / original;
  const { mscale, mscale_all_dim: all, attention_factor: said } = parameters;
  const inferred = mscale && all ? growth(factor, mscale) / growth(factor, all) : growth(factor, 1);
  const betas = [parameters.beta_fast ?? 32, parameters.beta_slow ?? 1] as const;
  return {
    base,
    frequencies: yarnFrequencies(dims, { base, factor, original, betas, truncate: parameters.truncate ?? true }),
    factor: said ?? inferred,
    sharpening: all ? growth(factor, all) ** 2 : 1,
  };
}

export function halves({ frequencies, factor }: Rotation): Rope {
  return { frequencies, factor, from: 0, interleaved: false };
}
