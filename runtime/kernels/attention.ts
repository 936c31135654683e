// attention: rotary embedding of q and k, append of k and v to the cache, causal grouped-query attention over the slot. Pure.
// Keys are cached rotated. Its test grid is attention-cases.ts, its gradient attention-backward.ts.
import { AppError } from "../../crds/common.ts";
import { attentionBackward } from "./attention-backward.ts";
import { attentionCases } from "./attention-cases.ts";
import { floats, type Kernel, type KvRows, matrix } from "./kernel.ts";
import { type RopeTables, ropeTables, rotate } from "./rope.ts";
import type { Op } from "./segment.ts";

type Attention = Extract<Op, { op: "attention" }>;

/** Positions a call needs tables for. */
function positionsOf(rows: KvRows): number {
  return rows.past.reduce((most, past) => Math.max(most, past + rows.tokens), 0);
}

/** Every backend calls this before a KV call: a GPU would write out of bounds in silence. */
export function checkKvRows(rows: Omit<KvRows, "keys" | "values"> & { readonly slots: number }, inputRows: number): void {
  const refuse = (message: string): never => {
    throw new AppError(message, { code: "InvalidArgument", operation: "attention" });
  };
  if (rows.batch * rows.tokens !== inputRows) refuse(`batch ${rows.batch} x tokens ${rows.tokens} is not the ${inputRows} rows given`);
  if (rows.past.length !== rows.batch) refuse(`past has ${rows.past.length} entries for a batch of ${rows.batch}`);
  if (rows.firstSlot < 0 || rows.firstSlot + rows.batch > rows.slots) {
    refuse(`slots ${rows.firstSlot}..${rows.firstSlot + rows.batch - 1} are not within 0..${rows.slots - 1}`);
  }
  for (const [b, past] of rows.past.entries()) {
    if (past < 0 || past + rows.tokens > rows.context) {
      refuse(`past[${b}] = ${past} plus ${rows.tokens} tokens exceeds the context of ${rows.context}`);
    }
  }
}

/** A cache for one sequence that starts at position 0: what a call without KV means. */
function scratch(op: Attention, rows: number): KvRows {
  const length = op.kvHeads * rows * op.headDim;
  return {
    keys: new Float32Array(length),
    values: new Float32Array(length),
    context: rows,
    firstSlot: 0,
    batch: 1,
    tokens: rows,
    past: new Int32Array(1),
  };
}

/** Rotates the new keys into the cache, copies the new values. */
function append(op: Attention, kv: KvRows, tables: RopeTables, { k, v }: { readonly k: Float32Array; readonly v: Float32Array }): void {
  const width = op.kvHeads * op.headDim;
  for (let row = 0; row < kv.batch * kv.tokens; row++) {
    const b = Math.floor(row / kv.tokens);
    const position = (kv.past[b] as number) + (row % kv.tokens);
    for (let head = 0; head < op.kvHeads; head++) {
      const from = row * width + head * op.headDim;
      const to = (((kv.firstSlot + b) * op.kvHeads + head) * kv.context + position) * op.headDim;
      rotate(tables, { position }, { x: k, from }, { out: kv.keys, to });
      kv.values.set(v.subarray(from, from + op.headDim), to);
    }
  }
}

/** Softmax weights of one query over cached keys first..position of the head stored at `base`. */
function weigh(op: Attention, kv: KvRows, query: Float32Array, at: { base: number; first: number; position: number }): Float64Array {
  const scores = new Float64Array(at.position - at.first + 1);
  let max = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < scores.length; j++) {
    const key = at.base + (at.first + j) * op.headDim;
    let dot = 0;
    for (let d = 0; d < op.headDim; d++) dot += (query[d] as number) * (kv.keys[key + d] as number);
    scores[j] = dot * op.scale;
    max = Math.max(max, scores[j] as number);
  }
  let sum = 0;
  for (let j = 0; j < scores.length; j++) {
    scores[j] = Math.exp((scores[j] as number) - max);
    sum += scores[j] as number;
  }
  return scores.map((value) => value / sum);
}

/** First key a query at `position` sees. */
function firstKey(position: number, window: number): number {
  return window > 0 ? Math.max(0, position - window + 1) : 0;
}

function attend(op: Attention, kv: KvRows, tables: RopeTables, q: Float32Array): Float32Array {
  const out = new Float32Array(q.length);
  const query = new Float32Array(op.headDim);
  const group = op.heads / op.kvHeads;
  for (let row = 0; row < kv.batch * kv.tokens; row++) {
    const b = Math.floor(row / kv.tokens);
    const position = (kv.past[b] as number) + (row % kv.tokens);
    const first = firstKey(position, op.window);
    for (let head = 0; head < op.heads; head++) {
      const from = (row * op.heads + head) * op.headDim;
      rotate(tables, { position }, { x: q, from }, { out: query, to: 0 });
      const base = ((kv.firstSlot + b) * op.kvHeads + Math.floor(head / group)) * kv.context * op.headDim;
      const weights = weigh(op, kv, query, { base, first, position });
      for (let d = 0; d < op.headDim; d++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) {
          sum += (weights[j] as number) * (kv.values[base + (first + j) * op.headDim + d] as number);
        }
        out[from + d] = sum;
      }
    }
  }
  return out;
}

export const attention: Kernel<Attention> = {
  name: "attention",
  reads: (op) => [op.q, op.k, op.v],
  outputs: (op) => [{ name: op.out, dtype: "f32", width: () => op.heads * op.headDim }],
  kvLayer: (op) => op.layer,
  tolerance: 5e-6,
  forward(op, context) {
    const q = context.read(op.q);
    const { rows, width } = matrix(q);
    const kv = context.kv ?? scratch(op, rows);
    const tables = ropeTables(positionsOf(kv), op.headDim, op.ropeBase);
    append(op, kv, tables, { k: floats(context.read(op.k)), v: floats(context.read(op.v)) });
    return { [op.out]: { shape: [rows, width], data: attend(op, kv, tables, floats(q)) } };
  },
  backward: attentionBackward,
  cases: attentionCases,
};
