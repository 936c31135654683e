// The gradient of attention for sequences from position 0; it recomputes the softmax.
import { AppError } from "../../crds/common.ts";
import type { Attention } from "./attention-op.ts";
import { floats, type Gradients, gradientOf, matrix, type OpContext } from "./kernel.ts";
import { type RopeTables, ropeTables, rotate } from "./rope.ts";

interface Sequences {
  readonly rows: number;
  readonly tokens: number;
  readonly tables: RopeTables;
}

/** Rotates every head of x [rows, heads * width] to (1) or from (-1) its position. */
function rotateAll(x: Float32Array, heads: number, direction: 1 | -1, { rows, tokens, tables }: Sequences): Float32Array {
  const out = new Float32Array(x.length);
  const width = x.length / (rows * heads);
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      const at = (row * heads + head) * width;
      rotate(tables, { position: row % tokens, width, direction }, { of: x, at }, { of: out, at });
    }
  }
  return out;
}

interface Head<T> {
  readonly of: T;
  readonly at: number;
}

function dot(a: Head<Float32Array>, b: Head<Float32Array>, length: number): number {
  let sum = 0;
  for (let d = 0; d < length; d++) sum += (a.of[a.at + d] as number) * (b.of[b.at + d] as number);
  return sum;
}

function addScaled(target: Head<Float64Array>, source: Head<Float32Array>, factor: number, length: number): void {
  for (let d = 0; d < length; d++)
    target.of[target.at + d] = (target.of[target.at + d] as number) + factor * (source.of[source.at + d] as number);
}

interface Work {
  readonly q: Float32Array; // rotated
  readonly k: Float32Array; // rotated
  readonly v: Float32Array;
  readonly dOut: Float32Array;
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
  readonly sinks: Float32Array | undefined; // [heads]
  readonly dSinks: Float64Array;
}

/** One query head of one row: softmax p over its keys and the sink; dp = dOut . v, 0 for the sink; ds = p (dp - sum p dp). */
function backwardQuery(op: Attention, work: Work, { row, head, first }: Record<"row" | "head" | "first", number>): void {
  const d = op.headDim;
  const from = (row * op.heads + head) * d;
  const outAt = (row * op.heads + head) * op.valueDim;
  const kvHead = Math.floor(head / (op.heads / op.kvHeads));
  const keyAt = (j: number) => (j * op.kvHeads + kvHead) * d;
  const valueAt = (j: number) => (j * op.kvHeads + kvHead) * op.valueDim;
  const count = row - first + 1;
  const scores = Float64Array.from(
    { length: count },
    (_, j) => dot({ of: work.q, at: from }, { of: work.k, at: keyAt(first + j) }, d) * op.scale,
  );
  const sink = work.sinks?.[head] ?? Number.NEGATIVE_INFINITY;
  const max = scores.reduce((a, b) => Math.max(a, b), sink);
  const e = scores.map((score) => Math.exp(score - max));
  const sum = e.reduce((a, b) => a + b, Math.exp(sink - max));
  const p = e.map((value) => value / sum);
  const dp = p.map((_, j) => dot({ of: work.dOut, at: outAt }, { of: work.v, at: valueAt(first + j) }, op.valueDim));
  const mean = dp.reduce((total, value, j) => total + value * (p[j] as number), 0);
  work.dSinks[head] = (work.dSinks[head] as number) - (Math.exp(sink - max) / sum) * mean;
  for (let j = 0; j < count; j++) {
    const key = keyAt(first + j);
    const ds = (p[j] as number) * ((dp[j] as number) - mean) * op.scale;
    addScaled({ of: work.dv, at: valueAt(first + j) }, { of: work.dOut, at: outAt }, p[j] as number, op.valueDim);
    addScaled({ of: work.dq, at: from }, { of: work.k, at: key }, ds, d);
    addScaled({ of: work.dk, at: key }, { of: work.q, at: from }, ds, d);
  }
}

export function attentionBackward(op: Attention, context: OpContext, outputs: Gradients): Gradients {
  const q = context.read(op.q);
  const groups = context.kv?.groups ?? [{ firstSlot: 0, batch: 1, tokens: matrix(q).rows, past: new Int32Array(1) }];
  const [{ batch, tokens } = { batch: 0, tokens: 0 }] = groups;
  if (groups.length > 1 || groups.some(({ past }) => past.some((from) => from !== 0))) {
    throw new AppError(
      "attention has no gradient for a call on top of cached tokens, or of several groups: run whole sequences from position 0",
      {
        code: "InvalidArgument",
        operation: "attention backward",
      },
    );
  }
  const rows = batch * tokens;
  const sequences: Sequences = { rows, tokens, tables: ropeTables(tokens, op.rope) };
  const k = floats(context.read(op.k));
  const v = floats(context.read(op.v));
  const work: Work = {
    q: rotateAll(floats(q), op.heads, 1, sequences),
    k: rotateAll(k, op.kvHeads, 1, sequences),
    v,
    dOut: gradientOf(outputs, op.out),
    dq: new Float64Array(q.data.length),
    dk: new Float64Array(k.length),
    dv: new Float64Array(v.length),
    sinks: op.sinks === undefined ? undefined : floats(context.read(op.sinks)),
    dSinks: new Float64Array(op.heads),
  };
  for (let row = 0; row < rows; row++) {
    const start = row - (row % tokens);
    const first = op.window > 0 ? Math.max(start, row - op.window + 1) : start;
    for (let head = 0; head < op.heads; head++) backwardQuery(op, work, { row, head, first });
  }
  return {
    [op.q]: rotateAll(Float32Array.from(work.dq), op.heads, -1, sequences),
    [op.k]: rotateAll(Float32Array.from(work.dk), op.kvHeads, -1, sequences),
    [op.v]: Float32Array.from(work.dv),
    ...(op.sinks === undefined ? {} : { [op.sinks]: Float32Array.from(work.dSinks) }),
  };
}
