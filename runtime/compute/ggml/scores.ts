// The memory of scores where attention is by products, pure.
import type { Layer, Op } from "../../kernels/segment.ts";
import type { KvSpec } from "../backend.ts";
import type { GroupShape } from "./kv-memory.ts";

/** Scores that lie in memory together, unless one token of one stream has more. */
const scoresBytesMax = 64 * 2 ** 20;
/** Masks of heads that all layers share; each layer makes what is beyond. */
export const headMasksBytesMax = 16 * 2 ** 20;
const [f32Bytes, i32Bytes, f16Bytes] = [4, 4, 2];

/** Values that are widened together, so that a cache of a core has them when they are multiplied; a run has few operations all the same. */
const widened = { bytesMax: 2 ** 20, operationsMax: 8 } as const;
/** Fewer heads do not pay for widening the values that they share: `../DECISIONS.md` 10. */
const sharingLeast = 3;

export type Heads = Pick<Extract<Op, { op: "attention" }>, "heads" | "kvHeads" | "valueDim">;

/** True where products are faster than the reference's attention. */
export const multiplied = ({ type = "f32", kvHeads, heads = kvHeads }: Pick<KvSpec, "type" | "kvHeads" | "heads">): boolean =>
  type === "f32" || (type === "f16" && heads >= sharingLeast * kvHeads);

/** One stream's values as f32, where they are stored as another type. */
const widenedBytes = ({ kvHeads, valueDim }: Heads, length: number, type: KvSpec["type"]): number =>
  type === "f16" ? length * kvHeads * valueDim * f32Bytes : 0;

/** ggml multiplies one row in another order than two, so a row alone comes twice. */
export const copiesOf = ({ heads, kvHeads }: Pick<Heads, "heads" | "kvHeads">, tokens: number): number =>
  heads === kvHeads && tokens === 1 ? 2 : 1;

/** A token's scores, which are copied where they come twice, and its mask for each head. */
function tokenBytes(op: Heads, tokens: number, length: number): number {
  const copies = copiesOf(op, tokens);
  return op.heads * length * (f32Bytes * (copies > 1 ? copies + 1 : 1) + f16Bytes);
}

export function scoredTogether(op: Heads, group: GroupShape, type?: KvSpec["type"]): readonly GroupShape[] {
  const { length, tokens, batch, from, first, step = 0 } = group;
  const [one, wide] = [tokenBytes(op, tokens, length), widenedBytes(op, length, type)];
  const near = wide > 0 ? Math.max(Math.ceil(batch / widened.operationsMax), Math.floor(widened.bytesMax / wide)) : batch;
  const streams = Math.max(1, Math.min(near, Math.floor(scoresBytesMax / (tokens * one + wide))));
  const own = Math.max(1, Math.min(tokens, Math.floor(scoresBytesMax / one)));
  const parts: GroupShape[] = [];
  for (let b = 0; b < batch; b += streams) {
    for (let t = 0; t < tokens; t += own) {
      const sizes = { batch: Math.min(streams, batch - b), tokens: Math.min(own, tokens - t) };
      parts.push({ ...group, ...sizes, first: first + b * step, from: from + b * tokens + t });
    }
  }
  return parts;
}

/** Tokens of a prompt that are attended to together by products. */
export const partTokens = 64;
/** Parts of fewer tokens in a step, one for each slot of a cache. */
const shortPartsMax = 64;

/** An upper bound for steps of so many rows: scores, masks, widened values, and i32 rows of those. */
export function scoresBytes(
  layers: readonly Layer[],
  rows: number,
  { length, type }: Pick<GroupShape, "length"> & Required<Pick<KvSpec, "type">>,
): number {
  const all = layers.flatMap(({ block }) => block.ops).filter((op) => op.op === "attention");
  const ops = all.filter(({ heads, kvHeads }) => multiplied({ heads, kvHeads, type }));
  const scores = ops.map((op) => {
    const one = tokenBytes(op, 1, length);
    const wide = widenedBytes(op, length, type);
    const parts = wide > 0 ? Math.min(rows, Math.ceil(rows / partTokens) + shortPartsMax) : 0;
    const masks = Math.min(headMasksBytesMax, rows * op.heads * length * f16Bytes);
    const places = parts * op.kvHeads * length * i32Bytes;
    return Math.min(rows * (one + wide), Math.max(scoresBytesMax, one) + wide) + places + masks;
  });
  const windows = new Set(ops.map(({ window }) => window)).size;
  return Math.max(0, ...scores) + windows * rows * length * f16Bytes;
}
