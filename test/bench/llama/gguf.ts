// A model store as the GGUF file that llama.cpp reads: the same weights in the same forms that the engine holds them in, byte for byte
// where both have them, so that two engines are compared and not two models. Mixtral alone, without its tokenizer: the benchmark sends
// token ids.
import { createWriteStream, existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { finished } from "node:stream/promises";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { numberOf, type WeightType, weightBytes } from "../../../runtime/compute/ggml/types.ts";
import { asF32, type Weights } from "../../../runtime/kernels/weights.ts";
import { codecFor } from "../../../runtime/weights/codecs/index.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";
import { cacheRoot } from "../../cluster/binaries.ts";
import { alignment, type GgufFloat, type GgufMeta, ggufHeader } from "../../kit/models/gguf-writer.ts";
import { interleaved, mixtralMatrices, mixtralParts, mixtralTop } from "../../kit/models/moe-gguf.ts";

/** A tensor to be written: what the header says of it, and how its bytes are had. */
export interface PlannedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: number;
  readonly bytes: number;
  readonly read: () => Promise<Uint8Array>;
}

export interface PlannedGguf {
  readonly metadata: Readonly<Record<string, GgufMeta | GgufFloat>>;
  readonly tensors: readonly PlannedTensor[];
}

const configSchema = z.object({
  architectures: z.tuple([z.literal("MixtralForCausalLM")]),
  hidden_size: z.number(),
  intermediate_size: z.number(),
  num_attention_heads: z.number(),
  num_key_value_heads: z.number(),
  max_position_embeddings: z.number(),
  rms_norm_eps: z.number(),
  rope_theta: z.number().optional(),
  rope_parameters: z.object({ rope_type: z.literal("default").optional(), rope_theta: z.number() }).optional(), // its newer place
  vocab_size: z.number(),
});
type MixtralConfig = z.infer<typeof configSchema>;

const blockValues = 32;
const q8 = codecFor("q8_0");

/** Dense matrices are int8 blocks beside experts that are quantized; norms and gates stay f32. */
export function denseType(name: string, shape: readonly number[], codec: CodecName): WeightType {
  const isMatrix = shape.length === 2 && (shape[1] as number) % blockValues === 0 && !name.endsWith("gate.weight");
  return isMatrix && codecFor(codec).denseBits === 8 ? "q8_0" : "f32";
}

export function encoded(type: WeightType, shape: readonly number[], values: Float32Array): Uint8Array {
  if (type === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return q8.encode({ all: values }, [{ name: "all", shape }]).subarray(0, weightBytes(type, shape));
}

/** The name in GGUF, or undefined where llama.cpp wants no such tensor. */
function ggufName(name: string): string | undefined {
  const [, layer, part = ""] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  return mixtralTop[name] ?? (part in mixtralParts ? `blk.${layer}.${mixtralParts[part]}` : undefined);
}

async function denseTensor(store: ModelStore, name: string, codec: CodecName, headRows: number): Promise<PlannedTensor> {
  const { shape } = await store.readDense(name);
  const renamed = ggufName(name);
  if (renamed === undefined) throw new AppError(`${store.dir}: llama.cpp has no tensor for ${name}`, { code: "UnsupportedShape" });
  const type = denseType(name, shape, codec);
  const read = async (): Promise<Uint8Array> => {
    const data = asF32(await store.readDense(name));
    const rotated = /[qk]_proj\.weight$/.test(name);
    return encoded(type, shape, rotated ? interleaved(data, shape[1] as number, headRows) : data);
  };
  return { name: renamed, shape, type: numberOf(type), bytes: weightBytes(type, shape), read };
}

/** The matrices of a layer's experts, each kind stacked. The last layer that was read is kept: its three stacks are asked for in turn. */
function expertTensors(store: ModelStore, codec: CodecName): PlannedTensor[] {
  let kept: { readonly layer: number; readonly experts: Promise<readonly Weights[]> } | undefined;
  const expertsOf = (layer: number, count: number): Promise<readonly Weights[]> => {
    if (kept?.layer === layer) return kept.experts;
    const units = Array.from({ length: count }, async (_, expert) => {
      return store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert);
    });
    kept = { layer, experts: Promise.all(units) };
    return kept.experts;
  };
  return store.layerShapes.flatMap(({ experts, matrices }, layer) => {
    const forms = store.unitForms(codec, layer, 0);
    return matrices.map(({ name, shape }) => ({
      name: `blk.${layer}.${mixtralMatrices[name]}_exps.weight`,
      shape: [experts, ...shape],
      type: numberOf(forms[name] ?? "f32"),
      bytes: experts * weightBytes(forms[name] ?? "f32", shape),
      read: async () => {
        const each = await expertsOf(layer, experts);
        return Buffer.concat(each.map((weights) => bytesOfWeight(weights, name)));
      },
    }));
  });
}

export function bytesOfWeight(weights: Weights, name: string): Uint8Array {
  const weight = weights[name];
  if (weight === undefined) throw new AppError(`a unit has no matrix ${name}`, { code: "CorruptShard" });
  const { buffer, byteOffset, byteLength } = weight.data;
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

/** transformers' own, where a config.json says nothing. */
const ropeThetaUnsaid = 1e6;

function metadataOf(config: MixtralConfig, { layers, experts, topK }: ModelStore["index"]): Readonly<Record<string, GgufMeta | GgufFloat>> {
  const headRows = config.hidden_size / config.num_attention_heads;
  return {
    "general.architecture": "llama",
    "llama.block_count": layers,
    "llama.context_length": config.max_position_embeddings,
    "llama.embedding_length": config.hidden_size,
    "llama.feed_forward_length": config.intermediate_size,
    "llama.attention.head_count": config.num_attention_heads,
    "llama.attention.head_count_kv": config.num_key_value_heads,
    "llama.rope.dimension_count": headRows,
    "llama.rope.freq_base": { f32: config.rope_parameters?.rope_theta ?? config.rope_theta ?? ropeThetaUnsaid },
    "llama.attention.layer_norm_rms_epsilon": { f32: config.rms_norm_eps },
    "llama.expert_count": experts,
    "llama.expert_used_count": topK,
    "llama.vocab_size": config.vocab_size,
    "tokenizer.ggml.model": "none",
  };
}

/** What the file will have; reads the dense part's shapes. Throws AppError where llama.cpp would compute another model. */
export async function planGguf(store: ModelStore, codec: CodecName): Promise<PlannedGguf> {
  const parsed = configSchema.safeParse(store.config);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new AppError(
      `${store.dir}: config.json: ${issue?.path.join(".")}: ${issue?.message}; this writes Mixtral alone: give --gguf FILE, of which the store was made, or --alone`,
      {
        code: "UnsupportedShape",
      },
    );
  }
  const headRows = parsed.data.hidden_size / parsed.data.num_attention_heads;
  const dense: PlannedTensor[] = [];
  for (const name of store.denseNames) dense.push(await denseTensor(store, name, codec, headRows));
  return { metadata: metadataOf(parsed.data, store.index), tensors: [...dense, ...expertTensors(store, codec)] };
}

/** Writes a store's file unless it is in the cache; answers where it is. */
export async function storeGguf(store: ModelStore, codec: CodecName): Promise<string> {
  const path = join(cacheRoot(), "gguf", `${store.index.modelDigest.slice(0, 16)}-${codec}.gguf`);
  await writeStoreGguf(store, codec, path);
  return path;
}

export async function writeStoreGguf(store: ModelStore, codec: CodecName, path: string): Promise<void> {
  if (!existsSync(path)) await writeGguf(await planGguf(store, codec), path);
}

/** Writes the file, tensor by tensor; it gets its name when it is whole. */
export async function writeGguf({ metadata, tensors }: PlannedGguf, path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  const out = createWriteStream(unfinished);
  const write = (bytes: Uint8Array): Promise<void> =>
    new Promise((resolve, reject) => void out.write(bytes, (error) => (error ? reject(error) : resolve())));
  await write(ggufHeader(metadata, tensors));
  for (const { name, bytes, read } of tensors) {
    const data = await read();
    if (data.length !== bytes) throw new AppError(`${name} has ${data.length} bytes, not ${bytes}`, { code: "CorruptShard" });
    await write(data);
    await write(Buffer.alloc(-data.length & (alignment - 1)));
  }
  out.end();
  await finished(out);
  renameSync(unfinished, path);
}
