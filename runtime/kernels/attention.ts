// attention: rotates q and k, appends k and v to the cache, and attends causally over the slot.
import { attentionBackward } from "./attention-backward.ts";
import { attentionCases } from "./attention-cases.ts";
import { type Attention, attentionOutputs } from "./attention-op.ts";
import { floats, type Kernel, type KvRows, matrix } from "./kernel.ts";
import { type Place, placesOf } from "./kv-groups.ts";
import { type RopeTables, ropeTables, rotate } from "./rope.ts";

/** The cache of a call without KV: one sequence from position 0. */
function scratch(op: Attention, rows: number): KvRows {
  return {
    keys: new Float32Array(op.kvHeads * rows * op.headDim),
    values: new Float32Array(op.kvHeads * rows * op.valueDim),
    context: rows,
    groups: rows === 0 ? [] : [{ firstSlot: 0, batch: 1, tokens: rows, past: new Int32Array(1) }],
  };
}

interface Added {
  readonly places: readonly Place[];
  readonly tables: RopeTables;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

function append(op: Attention, kv: KvRows, { places, tables, k, v }: Added): void {
  for (const [row, { slot, position }] of places.entries()) {
    for (let head = 0; head < op.kvHeads; head++) {
      const from = row * op.kvHeads + head;
      const to = (slot * op.kvHeads + head) * kv.context + position;
      rotate(tables, { position, width: op.headDim }, { of: k, at: from * op.headDim }, { of: kv.keys, at: to * op.headDim });
      kv.values.set(v.subarray(from * op.valueDim, (from + 1) * op.valueDim), to * op.valueDim);
    }
  }
}

interface Keys {
  readonly base: number;
  readonly first: number;
  readonly position: number;
  /** -Infinity if there is none. */
  readonly sink: number;
}

function weigh(op: Attention, kv: KvRows, query: Float32Array, at: Keys): Float64Array {
  const scores = new Float64Array(at.position - at.first + 1);
  let max = at.sink;
  for (let j = 0; j < scores.length; j++) {
    const key = (at.base + at.first + j) * op.headDim;
    let dot = 0;
    for (let d = 0; d < op.headDim; d++) dot += (query[d] as number) * (kv.keys[key + d] as number);
    scores[j] = dot * op.scale;
    max = Math.max(max, scores[j] as number);
  }
  let sum = Math.exp(at.sink - max);
  for (let j = 0; j < scores.length; j++) {
    scores[j] = Math.exp((scores[j] as number) - max);
    sum += scores[j] as number;
  }
  return scores.map((value) => value / sum);
}

function firstKey(position: number, window: number): number {
  return window > 0 ? Math.max(0, position - window + 1) : 0;
}

interface Queries {
  readonly q: Float32Array;
  readonly places: readonly Place[];
  readonly tables: RopeTables;
  readonly sinks: Float32Array | undefined;
}

function attend(op: Attention, kv: KvRows, { q, places, tables, sinks }: Queries): Float32Array {
  const out = new Float32Array(places.length * op.heads * op.valueDim);
  const query = new Float32Array(op.headDim);
  const group = op.heads / op.kvHeads;
  for (const [row, { slot, position }] of places.entries()) {
    const first = firstKey(position, op.window);
    for (let head = 0; head < op.heads; head++) {
      rotate(tables, { position, width: op.headDim }, { of: q, at: (row * op.heads + head) * op.headDim }, { of: query, at: 0 });
      const base = (slot * op.kvHeads + Math.floor(head / group)) * kv.context;
      const weights = weigh(op, kv, query, { base, first, position, sink: sinks?.[head] ?? Number.NEGATIVE_INFINITY });
      for (let d = 0; d < op.valueDim; d++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) {
          sum += (weights[j] as number) * (kv.values[(base + first + j) * op.valueDim + d] as number);
        }
        out[(row * op.heads + head) * op.valueDim + d] = sum;
      }
    }
  }
  return out;
}

export const attention: Kernel<Attention> = {
  name: "attention",
  reads: (op) => [op.q, op.k, op.v, ...(op.sinks === undefined ? [] : [op.sinks])],
  outputs: attentionOutputs,
  kvLayer: (op) => op.layer,
  tolerance: 5e-6,
  forward(op, context) {
    const q = context.read(op.q);
    const { rows } = matrix(q);
    const kv = context.kv ?? scratch(op, rows);
    const places = placesOf(kv.groups);
    const positions = places.reduce((most, { position }) => Math.max(most, position + 1), 0);
    const tables = ropeTables(positions, op.rope);
    const sinks = op.sinks === undefined ? undefined : floats(context.read(op.sinks));
    append(op, kv, { places, tables, k: floats(context.read(op.k)), v: floats(context.read(op.v)) });
    return { [op.out]: { shape: [rows, op.heads * op.valueDim], data: attend(op, kv, { q: floats(q), places, tables, sinks }) } };
  },
  backward: attentionBackward,
  cases: attentionCases,
};
