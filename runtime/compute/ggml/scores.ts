// The memory of scores where attention is by products, pure.
import type { Layer, Op } from "../../kernels/segment.ts";
import type { GroupShape } from "./kv-memory.ts";

/** Scores that lie in memory together, unless one token of one stream has more. */
const scoresBytesMax = 64 * 2 ** 20;
/** Masks of heads that all layers share; each layer makes what is beyond. */
export const headMasksBytesMax = 16 * 2 ** 20;
const [f32Bytes, f16Bytes] = [4, 2];

export type Heads = Pick<Extract<Op, { op: "attention" }>, "heads" | "kvHeads">;

/** ggml multiplies one row in another order than two, so a row alone comes twice. */
export const copiesOf = ({ heads, kvHeads }: Heads, tokens: number): number => (heads === kvHeads && tokens === 1 ? 2 : 1);

/** A token's scores, which are copied where they come twice, and its mask for each head. */
function tokenBytes(op: Heads, tokens: number, length: number): number {
  const copies = copiesOf(op, tokens);
  return op.heads * length * (f32Bytes * (copies > 1 ? copies + 1 : 1) + f16Bytes);
}

export function scoredTogether(op: Heads, group: GroupShape): readonly GroupShape[] {
  const { length, tokens, batch, from, first, step = 0 } = group;
  const most = Math.max(1, Math.floor(scoresBytesMax / tokenBytes(op, tokens, length)));
  const [streams, own] = most < tokens ? [1, most] : [Math.floor(most / tokens), tokens];
  const parts: GroupShape[] = [];
  for (let b = 0; b < batch; b += streams) {
    for (let t = 0; t < tokens; t += own) {
      const sizes = { batch: Math.min(streams, batch - b), tokens: Math.min(own, tokens - t) };
      parts.push({ ...group, ...sizes, first: first + b * step, from: from + b * tokens + t });
    }
  }
  return parts;
}

/** An upper bound for steps of so many rows: scores and masks. */
export function scoresBytes(layers: readonly Layer[], rows: number, length: number): number {
  const ops = layers.flatMap(({ block }) => block.ops).filter((op) => op.op === "attention");
  const scores = ops.map((op) => {
    const one = tokenBytes(op, 1, length);
    const masks = Math.min(headMasksBytesMax, rows * op.heads * length * f16Bytes);
    return Math.min(rows * one, Math.max(scoresBytesMax, one)) + masks;
  });
  const windows = new Set(ops.map(({ window }) => window)).size;
  return Math.max(0, ...scores) + windows * rows * length * f16Bytes;
}
