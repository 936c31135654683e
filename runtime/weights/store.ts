// The imported model on disk ("store"): a folder that `enodia model import` and `upcycle` write and workers map.
//   config.json tokenizer.json tokenizer_config.json   as Hugging Face names them
//   dense.safetensors                                  every tensor that is no expert, HF names (f32, f16 or bf16)
//   experts-<codec>.bin                                units w1|w2|w3, each unit contiguous and 4 KiB aligned
//   expert-index.json                                  the schema below
//   generation_config.json chat_template.jinja         copied when the source has them
// This file: the schema and the reader's interface. Reading: store-reader.ts. Writing: store-writer.ts.
import { z } from "zod";
import { type CodecName, codecNames } from "../../crds/names.ts";
import type { WeightOf, Weights } from "../kernels/weights.ts";

export const storeVersion = 1;
export const unitAlignment = 4096;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

export const expertIndexSchema = z.object({
  version: z.literal(storeVersion),
  /** SHA-256 over config.json, the dense tensors' hashes and every unit hash, in order: what ranks must agree on. */
  modelDigest: sha256,
  architecture: z.string(), // "MixtralForCausalLM"
  layers: z.number().int().min(1).max(1024),
  experts: z.number().int().min(1).max(4096),
  topK: z.number().int().min(1).max(64),
  hidden: z.number().int().min(1).max(65536),
  ffn: z.number().int().min(1).max(262144),
  /** SHA-256 of every dense tensor as stored; `readDense` checks it. */
  dense: z.record(z.string(), sha256),
  codecs: z.partialRecord(
    z.enum(codecNames),
    z.object({
      file: z.string().regex(/^[\w.-]+$/),
      /** units[layer][expert] */
      units: z.array(z.array(z.object({ offset: z.number().int().min(0), bytes: z.number().int().min(1), sha256 }))),
    }),
  ),
});
export type ExpertIndex = z.infer<typeof expertIndexSchema>;

/** The codecs of a store by their names: an order that holds when a codec is added, since the model digest depends on it. */
export function codecsOf({ codecs }: Pick<ExpertIndex, "codecs">): CodecName[] {
  return codecNames.filter((name) => codecs[name] !== undefined).toSorted();
}

export interface ModelStore {
  readonly dir: string;
  readonly index: ExpertIndex;
  /** config.json as parsed JSON (models/<family>.ts gives it its schema). */
  readonly config: unknown;
  readonly denseNames: readonly string[];
  /** One dense tensor, widened to f32. */
  readDense(name: string): Promise<WeightOf<"f32">>;
  /** The stored bytes of one expert, verified against its hash; throws AppError `CorruptShard`. */
  readUnit(layer: number, expert: number, codec: CodecName): Promise<Uint8Array>;
  /** Splits verified unit bytes into w1, w2, w3 without copying where alignment allows. */
  decodeUnit(unit: Uint8Array, codec: CodecName): Weights;
  close(): Promise<void>;
}
