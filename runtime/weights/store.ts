// The schema and read interface of a model store, a folder that `enodia model import` and `upcycle` write and workers map:
//   config.json tokenizer.json tokenizer_config.json   Hugging Face's files
//   dense.safetensors           all non-expert tensors under HF names (f32, f16, bf16, or blocks as u8)
//   experts-<codec>.bin         expert units in order, each contiguous and 4 KiB aligned
//   expert-index.json           the schema below
//   generation_config.json chat_template.jinja         if the source has them
import { z } from "zod";
import { type CodecName, codecNames } from "../../crds/names.ts";
import type { WeightData, WeightForms, Weights } from "../kernels/weights.ts";
import { type ExpertGrid, gridOf } from "../placement/grid.ts";
import { gatedFfnUnit, type UnitShape } from "./codecs/codec.ts";
import { type ExpertForm, expertForms, type StoredForm, storedForms } from "./stored.ts";

export const storeVersion = 1;
export const unitAlignment = 4096;

/** Bounds what an untrusted index can allocate. */
const matricesMax = 16;

const layerShapeSchema = z.object({
  experts: z.number().int().min(0).max(4096), // 0: a dense layer
  topK: z.number().int().min(0).max(64),
  matrices: z
    .array(z.object({ name: z.string().regex(/^[\w.-]+$/), shape: z.array(z.number().int().min(1).max(262144)).min(1).max(2) }))
    .max(matricesMax),
});

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const matrixForms = z.array(z.enum(expertForms)).max(matricesMax);

export const expertIndexSchema = z.object({
  version: z.literal(storeVersion),
  /** SHA-256 over config.json, the dense tensors' hashes and every unit hash, in order; ranks must agree on it. */
  modelDigest: sha256,
  architecture: z.string(), // "MixtralForCausalLM"
  layers: z.number().int().min(1).max(1024),
  experts: z.number().int().min(0).max(4096), // maximum over layers
  topK: z.number().int().min(0).max(64), // maximum over layers
  hidden: z.number().int().min(1).max(65536),
  /** Unset if `layerShapes` describes the layers. */
  ffn: z.number().int().min(1).max(262144).optional(),
  /** Set if layers differ or experts are not gated FFNs. */
  layerShapes: z.array(layerShapeSchema).max(1024).optional(),
  /** SHA-256 of every dense tensor as stored; `readDense` checks it. */
  dense: z.record(z.string(), sha256),
  /** ggml types of dense matrices in blocks; their shape is [rows, bytes per row]. */
  denseForms: z.record(z.string(), z.enum(storedForms)).optional(),
  /** Files beside the weights, for `inspect --verify`. */
  files: z.record(z.string().regex(/^[\w-][\w.-]*$/), sha256).optional(),
  codecs: z.partialRecord(
    z.enum(codecNames),
    z.object({
      file: z.string().regex(/^[\w.-]+$/),
      units: z.array(z.array(z.object({ offset: z.number().int().min(0), bytes: z.number().int().min(1), sha256 }))),
      /** For codecs with `asGiven`: per layer the forms of its matrices, or a list of them for each expert where experts differ. */
      forms: z
        .array(z.union([matrixForms, z.array(matrixForms).min(1).max(4096)]))
        .max(1024)
        .optional(),
    }),
  ),
});
export type ExpertIndex = z.infer<typeof expertIndexSchema>;
type CodecEntry = NonNullable<ExpertIndex["codecs"][CodecName]>;
export type LayerForms = NonNullable<CodecEntry["forms"]>[number];

const isPerExpert = (forms: LayerForms): forms is ExpertForm[][] => Array.isArray(forms[0]);

/** Undefined where all experts of the layer are alike. */
export const listedExperts = (forms: LayerForms = []): number | undefined => (isPerExpert(forms) ? forms.length : undefined);

/** The forms of the expert's matrices; undefined for codecs that have their own. */
export function formsOfUnit(
  { forms }: { readonly forms?: readonly LayerForms[] | undefined },
  layer: number,
  expert: number,
): readonly ExpertForm[] | undefined {
  const own = forms?.[layer];
  return own !== undefined && isPerExpert(own) ? (own[expert] ?? []) : own;
}

/** The short form if possible. */
export function layerForms(experts: readonly (readonly ExpertForm[])[]): LayerForms {
  const [first = []] = experts;
  return experts.every((forms) => forms.join() === first.join()) ? [...first] : experts.map((forms) => [...forms]);
}

/** Sorted, since the model digest depends on the order. */
export function codecsOf({ codecs }: Pick<ExpertIndex, "codecs">): CodecName[] {
  return codecNames.filter((name) => codecs[name] !== undefined).toSorted();
}

export interface LayerShape {
  readonly experts: number;
  readonly topK: number;
  readonly matrices: UnitShape;
}

/** "8 experts, top-2, of w1[96,64] w2[64,96] w3[96,64]". */
export function shapeText(layer: LayerShape | undefined): string {
  if (layer === undefined) return "no layer";
  return `${layer.experts} experts, top-${layer.topK}, of ${layer.matrices.map(({ name, shape }) => `${name}[${shape}]`).join(" ")}`;
}

type Sizes = Pick<ExpertIndex, "layers" | "experts" | "topK" | "hidden" | "ffn" | "layerShapes">;

export function layerShapesOf({ layers, experts, topK, hidden, ffn = 0, layerShapes }: Sizes): readonly LayerShape[] {
  if (layerShapes !== undefined) return layerShapes;
  const shape = { experts, topK, matrices: gatedFfnUnit(hidden, ffn) };
  return new Array<LayerShape>(layers).fill(shape);
}

/** Uses the short form if possible. */
export function sizesOf(shapes: readonly LayerShape[], hidden: number): Sizes {
  const { layers, experts } = gridOf(shapes.map((shape) => shape.experts));
  const topK = shapes.reduce((most, shape) => Math.max(most, shape.topK), 0);
  const ffn = shapes[0]?.matrices[0]?.shape[0] ?? 0;
  const short = { layers, experts, topK, hidden, ffn };
  if (layerShapesOf(short).every((shape, layer) => shapeText(shape) === shapeText(shapes[layer]))) return short;
  const layerShapes = shapes.map(({ matrices, ...rest }) => ({
    ...rest,
    matrices: matrices.map(({ name, shape }) => ({ name, shape: [...shape] })),
  }));
  return { layers, experts, topK, hidden, layerShapes };
}

/** The codec's own forms apply without `forms`. */
export function unitShapeOf(forms: readonly ExpertForm[] | undefined, matrices: UnitShape): UnitShape {
  if (forms === undefined) return matrices;
  return matrices.map(({ name, shape }, i) => {
    const form = forms[i];
    return form === undefined ? { name, shape } : { name, shape, form };
  });
}

export function storeGrid(index: Sizes): ExpertGrid {
  return gridOf(layerShapesOf(index).map(({ experts }) => experts));
}

export interface ModelStore {
  readonly dir: string;
  readonly index: ExpertIndex;
  readonly layerShapes: readonly LayerShape[];
  /** Parsed JSON; models/<family>.ts has the schema. */
  readonly config: unknown;
  readonly denseNames: readonly string[];
  /** Distinct. */
  readonly denseForms: readonly StoredForm[];
  /** About what the dense part takes where floats are kept in so many bits; 16 = as stored. */
  denseBytes(bits: 8 | 16 | 32): number;
  /** As `readDense` gives it; undefined for names that it has not. */
  denseInfo(name: string): { readonly form: StoredForm; readonly shape: readonly number[] } | undefined;
  /** A matrix as stored, or a vector in f32. */
  readDense(name: string): Promise<WeightData>;
  /** Verified against its hash; throws AppError `CorruptShard`. */
  readUnit(layer: number, expert: number, codec: CodecName): Promise<Uint8Array>;
  /** Avoids copies where alignment allows. */
  decodeUnit(unit: Uint8Array, codec: CodecName, layer: number, expert: number): Weights;
  unitForms(codec: CodecName, layer: number, expert: number): WeightForms;
  close(): Promise<void>;
}
