// A text passes a model layer by layer, with one expert in memory at a time: which rows choose each expert, with which gates and outputs.
import type { Backend } from "../../compute/backend.ts";
import type { Layer, ModelProgram, MoeLayer, Segment, Tensor } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";

export interface ModelParts {
  readonly backend: Backend;
  readonly program: ModelProgram;
  dense(name: string): Promise<Weights[string]>;
  expert(layer: number, expert: number): Promise<Weights>;
}

export interface ExpertUse {
  readonly layer: number;
  readonly expert: number;
  readonly segment: Segment;
  readonly weights: Weights;
  /** Rows that choose it. */
  readonly rows: number;
  readonly x: Float32Array; // [rows, width]
  readonly gates: Float32Array; // [rows]
  readonly y: Float32Array; // [rows, width]
}

type Sequences = readonly (readonly number[])[];

const floats = (tensor: Tensor | undefined): Float32Array => (tensor as Tensor).data as Float32Array;

interface Program {
  readonly segment: Segment;
  readonly weights: Weights;
  readonly layer: number;
}

/** The rows of an expert, or of a part of one. */
export async function outputOf(backend: Backend, { segment, weights, layer }: Program, x: Float32Array): Promise<Float32Array> {
  const [{ name, width }] = segment.inputs as [Segment["inputs"][number]];
  const compiled = await backend.compile(segment, weights, layer);
  try {
    const outputs = await compiled.run({ [name]: { shape: [x.length / width, width], data: x } });
    return floats(Object.values(outputs)[0]).slice();
  } finally {
    await compiled.dispose();
  }
}

async function denseWeights({ dense }: ModelParts, segment: Segment): Promise<Weights> {
  const weights: Record<string, Weights[string]> = {};
  for (const { name } of segment.weights) weights[name] = await dense(name);
  return weights;
}

function joined(pieces: readonly ArrayLike<number>[]): Float32Array {
  const out = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** Outputs of a layer's block for all sequences, one after another. */
async function blockOutputs(
  parts: ModelParts,
  layer: number,
  x: Float32Array,
  sequences: Sequences,
): Promise<(name: string) => Float32Array> {
  const { backend, program } = parts;
  const { block } = program.layers[layer] as Layer;
  const { layers, heads, kvHeads, headDim, valueDim } = program;
  const context = sequences.reduce((most, { length }) => Math.max(most, length), 1);
  const width = x.length / sequences.reduce((sum, { length }) => sum + length, 0);
  const pieces = new Map<string, ArrayLike<number>[]>(block.outputs.map(({ name }) => [name, []]));
  const cache = await backend.createKv({ layers: layers.length, slots: 1, heads, kvHeads, context, headDim, valueDim });
  const compiled = await backend.compile(block, await denseWeights(parts, block), layer);
  try {
    let at = 0;
    for (const { length } of sequences) {
      const rows = { shape: [length, width], data: x.subarray(at, at + length * width) };
      const groups = [{ firstSlot: 0, batch: 1, tokens: length, past: Int32Array.of(0) }];
      const outputs = await compiled.run({ x: rows }, { cache, groups });
      for (const [name, own] of pieces) own.push((outputs[name] as Tensor).data.slice());
      at += length * width;
    }
  } finally {
    await compiled.dispose();
    await cache.dispose();
  }
  return (name) => joined(pieces.get(name) ?? []);
}

/** The pairs of the expert. */
const pairsOf = (ids: ArrayLike<number>, expert: number): number[] => {
  const pairs: number[] = [];
  for (let pair = 0; pair < ids.length; pair++) if (ids[pair] === expert) pairs.push(pair);
  return pairs;
};

interface LayerPass {
  readonly h: Float32Array;
  readonly f: Float32Array;
  readonly ids: Float32Array;
  readonly gates: Float32Array;
}

async function passExperts(parts: ModelParts, layer: number, pass: LayerPass, onExpert: (use: ExpertUse) => Promise<void>): Promise<void> {
  const { backend, program } = parts;
  const { expert: segment, experts, topK } = program.layers[layer] as MoeLayer;
  const { h, f, ids, gates } = pass;
  const tokens = ids.length / topK;
  const [into, stride] = [f.length / tokens, h.length / tokens];
  for (let expert = 0; expert < experts; expert++) {
    const pairs = pairsOf(ids, expert);
    const x = new Float32Array(pairs.length * into);
    for (const [i, pair] of pairs.entries()) {
      const row = Math.floor(pair / topK);
      x.set(f.subarray(row * into, (row + 1) * into), i * into);
    }
    const weights = await parts.expert(layer, expert);
    const y = pairs.length === 0 ? new Float32Array(0) : await outputOf(backend, { segment, weights, layer }, x);
    const own = Float32Array.from(pairs, (pair) => gates[pair] as number);
    await onExpert({ layer, expert, segment, weights, rows: pairs.length, x, gates: own, y });
    const width = y.length / Math.max(1, pairs.length);
    for (const [i, pair] of pairs.entries()) {
      const to = Math.floor(pair / topK) * stride;
      for (let j = 0; j < width; j++) h[to + j] = (h[to + j] as number) + (own[i] as number) * (y[i * width + j] as number);
    }
  }
}

/** `onExpert` is called for every expert of every layer, in order. */
export async function calibrate(parts: ModelParts, sequences: Sequences, onExpert: (use: ExpertUse) => Promise<void>): Promise<void> {
  const { program } = parts;
  let x = await embedded(parts, Int32Array.from(sequences.flat()));
  for (const [layer, { kind }] of program.layers.entries()) {
    const outputs = await blockOutputs(parts, layer, x, sequences);
    if (kind === "dense") {
      x = outputs("y");
      continue;
    }
    const pass = { h: outputs("h"), f: outputs("f"), ids: outputs("ids"), gates: outputs("gates") };
    await passExperts(parts, layer, pass, onExpert);
    x = pass.h;
  }
}

async function embedded(parts: ModelParts, ids: Int32Array): Promise<Float32Array> {
  const { backend, program } = parts;
  const embed = await backend.compile(program.embed, await denseWeights(parts, program.embed), 0);
  try {
    return floats((await embed.run({ ids: { shape: [ids.length], data: ids } })).x).slice();
  } finally {
    await embed.dispose();
  }
}
