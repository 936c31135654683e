// GGUF files of a real model's shapes without its bytes: holes, or random weights. What matters of a model of gigabytes is there in seconds.
import { createCipheriv } from "node:crypto";
import { closeSync, openSync, renameSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { f16Bits } from "../../../runtime/weights/floats.ts";
import { type GgufFloat, type GgufMeta, ggufHeader } from "./gguf-writer.ts";
import { tokenizerMetadata } from "./moe-gguf.ts";

/** A decoder whose every layer has experts, with norms of queries and keys. */
export interface MoeShape {
  readonly architecture: "qwen3moe" | "olmoe";
  readonly layers: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly experts: number;
  readonly topK: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Values of the norms of queries and of keys. */
  readonly queryNorm: number;
  readonly keyNorm: number;
}

/** allenai/OLMoE-1B-7B's; in q4_0 3.7 GB. */
const olmoe1b7b: MoeShape = {
  ...{ architecture: "olmoe", layers: 16, hidden: 2048, ffn: 1024, experts: 64, topK: 8 },
  ...{ heads: 16, kvHeads: 16, headDim: 128, queryNorm: 2048, keyNorm: 2048 },
};

/** Qwen/Qwen3-30B-A3B's; in q4_0 17 GB. */
const qwen3of30b: MoeShape = {
  ...{ architecture: "qwen3moe", layers: 48, hidden: 2048, ffn: 768, experts: 128, topK: 8 },
  ...{ heads: 32, kvHeads: 4, headDim: 128, queryNorm: 128, keyNorm: 128 },
};

export const modelShapes = { olmoe: olmoe1b7b, "30b": qwen3of30b } as const;
export type ModelShapeName = keyof typeof modelShapes;

/** How weights are stored: ggml's number of the type, values of a block and its bytes. Norms are f32. */
export interface WeightType {
  readonly type: number;
  readonly values: number;
  readonly bytes: number;
}
export const bf16: WeightType = { type: 30, values: 1, bytes: 2 };
export const q4_0: WeightType = { type: 2, values: 32, bytes: 18 };
const f32: WeightType = { type: 0, values: 1, bytes: 4 };

interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: number;
  readonly bytes: number;
}

export interface RandomGguf {
  readonly shape: MoeShape;
  readonly weights: WeightType;
  /** A folder with tokenizer.json, whose vocabulary the file gets; without it that of the goldens. */
  readonly tokenizer?: string;
}

async function headerOf({ shape, weights, tokenizer }: RandomGguf): Promise<{ header: Buffer; tensors: readonly Tensor[] }> {
  const { architecture, layers, hidden, ffn, experts, heads, kvHeads, headDim } = shape;
  const words = await tokenizerMetadata(tokenizer);
  const vocab = (words["tokenizer.ggml.tokens"] as readonly string[]).length;
  const shapes: Record<string, readonly number[]> = {
    ...{ "token_embd.weight": [vocab, hidden], "output_norm.weight": [hidden], "output.weight": [vocab, hidden] },
  };
  for (let layer = 0; layer < layers; layer++) {
    const own: Record<string, readonly number[]> = {
      ...{ attn_norm: [hidden], attn_q_norm: [shape.queryNorm], attn_k_norm: [shape.keyNorm], ffn_norm: [hidden] },
      ...{ ffn_gate_inp: [experts, hidden], attn_q: [heads * headDim, hidden], attn_k: [kvHeads * headDim, hidden] },
      ...{ attn_v: [kvHeads * headDim, hidden], attn_output: [hidden, heads * headDim], ffn_gate_exps: [experts, ffn, hidden] },
      ...{ ffn_up_exps: [experts, ffn, hidden], ffn_down_exps: [experts, hidden, ffn] },
    };
    for (const [part, of] of Object.entries(own)) shapes[`blk.${layer}.${part}.weight`] = of;
  }
  const tensors = Object.entries(shapes).map(([name, of]): Tensor => {
    const { type, values, bytes } = of.length > 1 ? weights : f32;
    return { name, shape: of, type, bytes: (of.reduce((a, b) => a * b, 1) / values) * bytes };
  });
  const facts: Record<string, GgufMeta | GgufFloat> = {
    ...{ block_count: layers, context_length: 4096, embedding_length: hidden, feed_forward_length: ffn, expert_count: experts },
    ...{ expert_feed_forward_length: ffn, expert_used_count: shape.topK, "rope.freq_base": { f32: 10_000 } },
    ...{ "attention.head_count": heads, "attention.head_count_kv": kvHeads, "attention.key_length": headDim },
    "attention.layer_norm_rms_epsilon": { f32: 1e-5 },
  };
  const named = Object.entries(facts).map(([key, value]) => [`${architecture}.${key}`, value] as const);
  return { header: ggufHeader({ "general.architecture": architecture, ...Object.fromEntries(named), ...words }, tensors), tensors };
}

/** Of a file with such weights. */
export async function ggufBytes(of: RandomGguf): Promise<number> {
  const { header, tensors } = await headerOf(of);
  return header.length + tensors.reduce((sum, { bytes }) => sum + aligned(bytes), 0);
}

const aligned = (bytes: number): number => Math.ceil(bytes / 32) * 32;

/** Writes a file whose weights are all holes; bytes of it. */
export async function writeSparseGguf(path: string, of: RandomGguf): Promise<number> {
  const size = await ggufBytes(of);
  writeFileSync(path, (await headerOf(of)).header);
  truncateSync(path, size);
  return size;
}

/** The bytes of scales that leave weights of q4_0 with a deviation of about 0.02, as f16. */
const scale = [0x60, 0x1c] as const;
/** Bytes of two values each without -8, whose mean is 0: a mean of a half would make all answers one. */
const symmetric = Uint8Array.from({ length: 256 }, (_, byte) => ((byte >> 4 || 8) << 4) | (byte & 15 || 8));
/** A multiple of a block and of the alignment. */
const pieceBytes = 18 * 32 * 8192;
/** A pool of random blocks, from which pieces are cut at places of their own. */
const poolBytes = 8 * pieceBytes;
/** Blocks between the places of two pieces; prime, so that none comes twice. */
const stepBlocks = 104_729;

/** Twice the pool, so that a piece may begin anywhere in it. */
function randomBlocks(seed: number): Buffer {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed);
  const pool = createCipheriv("aes-128-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(poolBytes));
  for (let i = 0; i < pool.length; i++) pool[i] = symmetric[pool[i] as number] as number;
  for (let block = 0; block < pool.length; block += q4_0.bytes) pool.set(scale, block);
  return Buffer.concat([pool, pool]);
}

/** The first block of every token is this level, which no matrix but routers reads: their weights of it are a bias. */
const level = 4;
/** Such a value after the norm before a router, and how far scores vary by token there. */
const seen = { level: 3.2, scores: 0.5 } as const;
/** Tokens are as large as what layers add to them, in half of their blocks like others of their group: layers then follow each other. */
const tokenScale = f16Bits(0.2);
const groups = 48;
/** How often experts are chosen, the most used eighth first, to their mean: as `enodia model trace` records it of SmolLM2, upcycled. */
const uses = [1.58, 1.42, 1.28, 1.11, 0.91, 0.75, 0.6, 0.35] as const;

/** What an expert's scores have more than others'. */
function biasOf(layer: number, expert: number, { experts, topK }: MoeShape): number {
  const place = (expert * 37 + layer * 11) % experts;
  const chance = Math.min(0.9, (topK / experts) * (uses[Math.floor((place * uses.length) / experts)] as number));
  return (seen.scores * Math.log(chance / (1 - chance))) / 1.7;
}

/** The piece of a matrix from row `first` on, with what makes routing skewed and alike from layer to layer. */
function planted(piece: Buffer, { name, shape: dims }: Tensor, first: number, shape: MoeShape, blocks: Buffer): Buffer {
  if (dims.at(-1) !== shape.hidden) return piece;
  const out = Buffer.from(piece);
  const rowBytes = (shape.hidden / q4_0.values) * q4_0.bytes;
  const layer = Number(/^blk\.(\d+)\.ffn_gate_inp/.exec(name)?.[1] ?? -1);
  const isToken = name === "token_embd.weight";
  const highest = Buffer.alloc(q4_0.bytes, 0xff); // 15 - 8 of each value
  for (let from = 0, row = first; from < out.length; from += rowBytes, row++) {
    if (isToken) {
      const shared = q4_0.bytes * Math.floor(shape.hidden / q4_0.values / 2);
      blocks.copy(out, from + q4_0.bytes, (row % groups) * rowBytes, (row % groups) * rowBytes + shared);
      for (let at = from; at < from + rowBytes; at += q4_0.bytes) out.writeUInt16LE(tokenScale, at);
    }
    const value = isToken ? level : layer >= 0 ? biasOf(layer, row, shape) / (q4_0.values * seen.level) : 0;
    highest.writeUInt16LE(f16Bits(value / 7));
    highest.copy(out, from);
  }
  return out;
}

/** Writes random weights in q4_0, the same for the same seed: every expert has bytes of its own, and routers choose some more often. Norms
 *  are ones. The file gets its name when it is whole. */
export async function writeRandomGguf(path: string, of: Omit<RandomGguf, "weights">, seed: number): Promise<void> {
  const { header, tensors } = await headerOf({ ...of, weights: q4_0 });
  const blocks = randomBlocks(seed);
  let cut = 0;
  const unfinished = `${path}.${process.pid}`;
  const file = openSync(unfinished, "w");
  try {
    writeSync(file, header);
    for (const tensor of tensors) {
      const { type, bytes } = tensor;
      if (type === f32.type) {
        const ones = Buffer.from(new Float32Array(bytes / 4).fill(1).buffer);
        writeSync(file, Buffer.concat([ones, Buffer.alloc(aligned(bytes) - bytes)]));
        continue;
      }
      for (let at = 0; at < bytes; at += pieceBytes) {
        const from = ((cut++ * stepBlocks) % (poolBytes / q4_0.bytes)) * q4_0.bytes;
        const random = blocks.subarray(from, from + Math.min(pieceBytes, bytes - at));
        const first = at / ((of.shape.hidden / q4_0.values) * q4_0.bytes);
        const piece = planted(random, tensor, first, of.shape, blocks);
        writeSync(file, Buffer.concat([piece, Buffer.alloc(at + piece.length >= bytes ? aligned(bytes) - bytes : 0)]));
      }
    }
  } finally {
    closeSync(file);
  }
  renameSync(unfinished, path);
}
