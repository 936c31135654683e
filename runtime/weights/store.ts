// The imported model on disk ("store"): a folder that `enodia model import` and `upcycle` write and workers map.
//   config.json tokenizer.json tokenizer_config.json   as Hugging Face names them
//   dense.safetensors                                  every tensor that is no expert, HF names (f32, f16, bf16, or blocks as u8)
//   experts-<codec>.bin                                units of matrices in order, each unit contiguous and 4 KiB aligned
//   expert-index.json                                  the schema below
//   generation_config.json chat_template.jinja         copied when the source has them
// This file: the schema and the reader's interface. Reading: store-reader.ts. Writing: store-writer.ts.
import { z } from "zod";
import { type CodecName, codecNames } from "../../crds/names.ts";
import type { WeightData, WeightForms, Weights } from "../kernels/weights.ts";
import { type ExpertGrid, gridOf } from "../placement/grid.ts";
import { gatedFfnUnit, type UnitShape } from "./codecs/codec.ts";
import { type StoredForm, storedForms } from "./stored.ts";

export const storeVersion = 1;
export const unitAlignment = 4096;

/** Matrices and biases of one expert, at most: an index chooses no size of its own. */
const matricesMax = 16;

const layerShapeSchema = z.object({
  experts: z.number().int().min(0).max(4096), // 0: a dense layer
  topK: z.number().int().min(0).max(64),
  /** The matrices and biases of a unit, in this order. */
  matrices: z
    .array(z.object({ name: z.string().regex(/^[\w.-]+$/), shape: z.array(z.number().int().min(1).max(262144)).min(1).max(2) }))
    .max(matricesMax),
});

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

export const expertIndexSchema = z.object({
  version: z.literal(storeVersion),
  /** SHA-256 over config.json, the dense tensors' hashes and every unit hash, in order: what ranks must agree on. */
  modelDigest: sha256,
  architecture: z.string(), // "MixtralForCausalLM"
  layers: z.number().int().min(1).max(1024),
  experts: z.number().int().min(0).max(4096), // the most of a layer
  topK: z.number().int().min(0).max(64), // the most of a layer
  hidden: z.number().int().min(1).max(65536),
  /** Width of the gated FFN that every expert of every layer is; left out where `layerShapes` says more. */
  ffn: z.number().int().min(1).max(262144).optional(),
  /** The shape of each layer, where layers differ or experts are no gated FFN. */
  layerShapes: z.array(layerShapeSchema).max(1024).optional(),
  /** SHA-256 of every dense tensor as stored; `readDense` checks it. */
  dense: z.record(z.string(), sha256),
  /** The ggml types of dense matrices that are kept in blocks: their tensors are bytes [rows, bytes of a row]. */
  denseForms: z.record(z.string(), z.enum(storedForms)).optional(),
  /** SHA-256 of the files beside the weights, for `inspect --verify`; a store may have none listed. */
  files: z.record(z.string().regex(/^[\w-][\w.-]*$/), sha256).optional(),
  codecs: z.partialRecord(
    z.enum(codecNames),
    z.object({
      file: z.string().regex(/^[\w.-]+$/),
      /** units[layer][expert] */
      units: z.array(z.array(z.object({ offset: z.number().int().min(0), bytes: z.number().int().min(1), sha256 }))),
      /** forms[layer][matrix], for a codec that keeps matrices as they came. */
      forms: z
        .array(z.array(z.enum(storedForms)).max(matricesMax))
        .max(1024)
        .optional(),
    }),
  ),
});
export type ExpertIndex = z.infer<typeof expertIndexSchema>;

/** The codecs of a store by their names: an order that holds when a codec is added, since the model digest depends on it. */
export function codecsOf({ codecs }: Pick<ExpertIndex, "codecs">): CodecName[] {
  return codecNames.filter((name) => codecs[name] !== undefined).toSorted();
}

/** Experts of one layer, how many of them a token uses, and what lies in the unit of each. */
export interface LayerShape {
  readonly experts: number;
  readonly topK: number;
  readonly matrices: UnitShape;
}

/** "8 experts, top-2, of w1[96,64] w2[64,96] w3[96,64]": to compare, and for people. */
export function shapeText(layer: LayerShape | undefined): string {
  if (layer === undefined) return "no layer";
  return `${layer.experts} experts, top-${layer.topK}, of ${layer.matrices.map(({ name, shape }) => `${name}[${shape}]`).join(" ")}`;
}

type Sizes = Pick<ExpertIndex, "layers" | "experts" | "topK" | "hidden" | "ffn" | "layerShapes">;

/** Layers as an index describes them: one by one, or all alike. */
export function layerShapesOf({ layers, experts, topK, hidden, ffn = 0, layerShapes }: Sizes): readonly LayerShape[] {
  if (layerShapes !== undefined) return layerShapes;
  const shape = { experts, topK, matrices: gatedFfnUnit(hidden, ffn) };
  return new Array<LayerShape>(layers).fill(shape);
}

/** The way back: sizes as an index stores them, in the short form where it says all. */
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

/** What lies in the units of a layer whose matrices a codec keeps in these forms; unset: in its own. */
export function unitShapeOf(forms: readonly StoredForm[] | undefined, matrices: UnitShape): UnitShape {
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
  /** One entry a layer. */
  readonly layerShapes: readonly LayerShape[];
  /** config.json as parsed JSON (models/<family>.ts gives it its schema). */
  readonly config: unknown;
  readonly denseNames: readonly string[];
  /** The forms of the dense matrices, each once. */
  readonly denseForms: readonly StoredForm[];
  /** One dense tensor: a matrix as it is stored, a vector widened to f32. */
  readDense(name: string): Promise<WeightData>;
  /** The stored bytes of one expert, verified against its hash; throws AppError `CorruptShard`. */
  readUnit(layer: number, expert: number, codec: CodecName): Promise<Uint8Array>;
  /** Splits the verified bytes of a unit of this layer into its matrices without copying where alignment allows. */
  decodeUnit(unit: Uint8Array, codec: CodecName, layer: number): Weights;
  /** The forms of what a unit of this layer decodes into. */
  unitForms(codec: CodecName, layer: number): WeightForms;
  close(): Promise<void>;
}
