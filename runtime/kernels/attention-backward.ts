// Gradient of attention for sequences that start at position 0 (training runs whole sequences). Pure.
// The forward pass is attention.ts; this recomputes the softmax from q and k rather than keeping it.
import { AppError } from "../../crds/common.ts";
import { floats, type Gradients, gradientOf, matrix, type OpContext } from "./kernel.ts";
import { type RopeTables, ropeTables, rotate } from "./rope.ts";
import type { Op } from "./segment.ts";

type Attention = Extract<Op, { op: "attention" }>;

interface Sequence {
  readonly batch: number;
  readonly tokens: number;
}

/** Turns every head of x [rows, heads * headDim] to (1) or from (-1) its position. */
function turnAll(x: Float32Array, heads: number, op: Attention, tables: RopeTables, turn: 1 | -1, shape: Sequence): Float32Array {
  const out = new Float32Array(x.length);
  for (let row = 0; row < shape.batch * shape.tokens; row++) {
    for (let head = 0; head < heads; head++) {
      const at = (row * heads + head) * op.headDim;
      rotate(tables, row % shape.tokens, op.headDim, { x, from: at }, { out, to: at }, turn);
    }
  }
  return out;
}

function dot(a: Float32Array, i: number, b: Float32Array, j: number, length: number): number {
  let sum = 0;
  for (let d = 0; d < length; d++) sum += (a[i + d] as number) * (b[j + d] as number);
  return sum;
}

function addScaled(target: Float64Array, at: number, source: Float32Array, from: number, factor: number, length: number): void {
  for (let d = 0; d < length; d++) target[at + d] = (target[at + d] as number) + factor * (source[from + d] as number);
}

interface Work {
  readonly q: Float32Array; // rotated
  readonly k: Float32Array; // rotated
  readonly v: Float32Array;
  readonly dOut: Float32Array;
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
}

/** One query head of one row: softmax p over its keys; dp = dOut . v; ds = p (dp - sum p dp). */
function backwardQuery(op: Attention, work: Work, row: number, head: number, first: number): void {
  const d = op.headDim;
  const from = (row * op.heads + head) * d;
  const kvHead = Math.floor(head / (op.heads / op.kvHeads));
  const keyAt = (j: number) => (j * op.kvHeads + kvHead) * d;
  const count = row - first + 1;
  const scores = Float64Array.from({ length: count }, (_, j) => dot(work.q, from, work.k, keyAt(first + j), d) * op.scale);
  const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const e = scores.map((score) => Math.exp(score - max));
  const sum = e.reduce((a, b) => a + b, 0);
  const p = e.map((value) => value / sum);
  const dp = p.map((_, j) => dot(work.dOut, from, work.v, keyAt(first + j), d));
  const mean = dp.reduce((total, value, j) => total + value * (p[j] as number), 0);
  for (let j = 0; j < count; j++) {
    const key = keyAt(first + j);
    const ds = (p[j] as number) * ((dp[j] as number) - mean) * op.scale;
    addScaled(work.dv, key, work.dOut, from, p[j] as number, d);
    addScaled(work.dq, from, work.k, key, ds, d);
    addScaled(work.dk, key, work.q, from, ds, d);
  }
}

export function attentionBackward(op: Attention, context: OpContext, outputs: Gradients): Gradients {
  const q = context.read(op.q);
  const shape = { batch: context.kv?.batch ?? 1, tokens: context.kv?.tokens ?? matrix(q).rows };
  if (context.kv?.past.some((past) => past !== 0)) {
    throw new AppError("attention has no gradient for a call on top of cached tokens: run whole sequences from position 0", {
      code: "InvalidArgument",
      operation: "attention backward",
    });
  }
  const tables = ropeTables(shape.tokens, op.headDim, op.ropeBase);
  const k = floats(context.read(op.k));
  const work: Work = {
    q: turnAll(floats(q), op.heads, op, tables, 1, shape),
    k: turnAll(k, op.kvHeads, op, tables, 1, shape),
    v: floats(context.read(op.v)),
    dOut: gradientOf(outputs, op.out),
    dq: new Float64Array(q.data.length),
    dk: new Float64Array(k.length),
    dv: new Float64Array(k.length),
  };
  for (let row = 0; row < shape.batch * shape.tokens; row++) {
    const start = row - (row % shape.tokens);
    const first = op.window > 0 ? Math.max(start, row - op.window + 1) : start;
    for (let head = 0; head < op.heads; head++) backwardQuery(op, work, row, head, first);
  }
  return {
    [op.q]: turnAll(Float32Array.from(work.dq), op.heads, op, tables, -1, shape),
    [op.k]: turnAll(Float32Array.from(work.dk), op.kvHeads, op, tables, -1, shape),
    [op.v]: Float32Array.from(work.dv),
  };
}
