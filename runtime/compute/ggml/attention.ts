// Rotary embedding and attention over the cache, as one operation where the device has it, else as products and a softmax.
import type { Op, Rope } from "../../kernels/segment.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { KvGraph } from "./kv.ts";
import type { GroupShape } from "./kv-memory.ts";
import type { Lowering } from "./lowering.ts";
import { copiesOf } from "./scores.ts";

const f32Bytes = 4;

type Attention = Extract<Op, { op: "attention" }>;

interface Parts {
  /** [headDim, tokens, heads, batch] */
  readonly q: Value;
  /** [headDim, positions, kvHeads, batch] */
  readonly keys: Value;
  /** [valueDim, positions, kvHeads, batch] */
  readonly values: Value;
  readonly mask: Value;
  readonly sinks: Pointer | undefined;
}

/** [valueDim, heads, tokens, batch] */
function attend(build: GraphBuilder, op: Attention, parts: Parts): Value {
  return asOperation(build, op, parts) ?? asProducts(build, op, parts);
}

/** Undefined where the device lacks it for this head and these types. */
function asOperation(build: GraphBuilder, op: Attention, { q, keys, values, mask, sinks }: Parts): Value | undefined {
  const { ggml, exact, software } = build.device;
  if (software) return undefined;
  const tensor = ggml.ggml_flash_attn_ext(build.context, q.tensor, keys.tensor, values.tensor, mask.tensor, op.scale, 0, 0);
  if (sinks !== undefined) ggml.ggml_flash_attn_ext_add_sinks(tensor, sinks);
  return exact || build.device.supports(tensor) ? build.step(tensor, [q, keys, values, mask]) : undefined;
}

function asProducts(build: GraphBuilder, op: Attention, { q, keys, values, mask, sinks }: Parts): Value {
  const { ggml } = build.device;
  const { context } = build;
  const scores = build.step(ggml.ggml_mul_mat(context, keys.tensor, q.tensor), [keys, q]);
  const softmax = ggml.ggml_soft_max_ext(context, scores.tensor, mask.tensor, op.scale, 0);
  if (sinks !== undefined) ggml.ggml_soft_max_add_sinks(softmax, sinks);
  const shares = build.step(softmax, [scores, mask]);
  const across = build.view(ggml.ggml_permute(context, values.tensor, 1, 0, 2, 3), values);
  const turned = build.step(ggml.ggml_cont(context, across.tensor), [across]);
  const sums = build.step(ggml.ggml_mul_mat(context, turned.tensor, shares.tensor), [turned, shares]);
  const byToken = build.view(ggml.ggml_permute(context, sums.tensor, 0, 2, 1, 3), sums);
  return build.step(ggml.ggml_cont(context, byToken.tensor), [byToken]);
}

/**
 * [heads * valueDim, rows] by products whose sums depend on neither rows nor length: heads of one kv head are rows beside each other, two
 * at least, since ggml multiplies one row in another order.
 */
function byExactProducts(
  { build, kv, rows }: Lowering,
  op: Attention,
  { query, sinks }: { query: Value; sinks: Pointer | undefined },
): Value {
  const { ggml } = build.device;
  const { context } = build;
  const { heads, kvHeads, headDim, valueDim } = op;
  const cache = kv as KvGraph;
  const out = build.block(heads * valueDim, rows);
  for (const group of cache.partsFor(op)) {
    const { from, tokens, batch, length } = group;
    const copies = copiesOf(op, tokens);
    const perKey = (heads / kvHeads) * tokens * copies;
    const row = length * f32Bytes;
    let q = ofGroup(build, query, op, group);
    if (copies > 1) q = build.step(ggml.ggml_repeat_4d(context, q.tensor, headDim, copies, heads, batch), [q]);
    else if (tokens > 1) q = build.step(ggml.ggml_cont(context, q.tensor), [q]);
    const asRows = build.view(ggml.ggml_reshape_4d(context, q.tensor, headDim, perKey, kvHeads, batch), q);
    const [keys, values] = [cache.keys(build, op, group), cache.values(build, op, group)];
    const scores = build.step(ggml.ggml_mul_mat(context, keys.tensor, asRows.tensor), [keys, asRows]);
    const [perHead, perText] = [tokens * copies * row, heads * tokens * copies * row];
    let own = build.view(ggml.ggml_view_4d(context, scores.tensor, length, tokens, heads, batch, row, perHead, perText, 0), scores);
    if (copies > 1) own = build.step(ggml.ggml_cont(context, own.tensor), [own]);
    const shares = softened(build, op, { scores: own, sinks, group, cache });
    const across = build.view(ggml.ggml_permute(context, shares.tensor, 1, 0, 2, 3), shares);
    const sums = ggml.ggml_out_prod(context, values.tensor, across.tensor);
    const offset = from * heads * valueDim * f32Bytes;
    if (tokens === 1) build.into(sums, out, offset, [values, across]);
    else {
      const byHead = build.step(sums, [values, across]);
      const byToken = build.view(ggml.ggml_permute(context, byHead.tensor, 0, 2, 1, 3), byHead);
      build.into(ggml.ggml_cont(context, byToken.tensor), out, offset, [byToken]);
    }
  }
  return out;
}

interface Scores {
  /** [length, tokens, heads, batch] */
  readonly scores: Value;
  readonly sinks: Pointer | undefined;
  readonly group: GroupShape;
  readonly cache: KvGraph;
}

/** Shares in place of scores. One token's heads are rows, since ggml divides the rows of a softmax between threads; sinks are by head. */
function softened(build: GraphBuilder, { heads, scale, window }: Attention, { scores, sinks, group, cache }: Scores): Value {
  const { ggml } = build.device;
  const { context } = build;
  const { length, tokens, batch } = group;
  const asRows = tokens === 1 && sinks === undefined;
  const mask = asRows ? cache.maskOfHeads(build, window, group, heads) : cache.mask(build, window, group);
  const of = asRows ? build.view(ggml.ggml_reshape_2d(context, scores.tensor, length, heads * batch), scores) : scores;
  const softmax = ggml.ggml_soft_max_ext_inplace(context, of.tensor, mask.tensor, scale, 0);
  if (sinks !== undefined) ggml.ggml_soft_max_add_sinks(softmax, sinks);
  const shares = build.within(softmax, of, [mask]);
  return build.view(ggml.ggml_reshape_4d(context, shares.tensor, length, tokens, heads, batch), shares);
}

/** Values `from` to `from + width` of each head of x [headWidth, heads, rows], without a copy. */
export function partOfHeads(build: GraphBuilder, x: Value, heads: HeadShape, { from, width }: { from: number; width: number }): Value {
  const row = heads.width * f32Bytes;
  const { ggml } = build.device;
  return build.view(ggml.ggml_view_3d(build.context, x.tensor, width, heads.count, heads.rows, row, row * heads.count, from * f32Bytes), x);
}

interface HeadShape {
  readonly width: number;
  readonly count: number;
  readonly rows: number;
}

/** The rotated values as two that are to be added. */
function turnedParts({ build, kv }: Lowering, rope: Rope, x: Value, heads: HeadShape): readonly [Value, Value] {
  const { ggml } = build.device;
  const pairs = rope.frequencies.length;
  const { cos, sin } = (kv as KvGraph).rotation(build, rope);
  const swapped = (): Value => {
    if (!rope.interleaved) return build.step(ggml.ggml_roll(build.context, x.tensor, pairs, 0, 0, 0), [x]);
    const apart = build.view(ggml.ggml_reshape_4d(build.context, x.tensor, 2, pairs, heads.count, heads.rows), x);
    const rolled = build.step(ggml.ggml_roll(build.context, apart.tensor, 1, 0, 0, 0), [apart]);
    return build.view(ggml.ggml_reshape_3d(build.context, rolled.tensor, 2 * pairs, heads.count, heads.rows), rolled);
  };
  const other = swapped();
  const straight = build.step(ggml.ggml_mul(build.context, x.tensor, cos.tensor), [x, cos]);
  const across = build.step(ggml.ggml_mul(build.context, other.tensor, sin.tensor), [other, sin]);
  return [straight, across];
}

function turned(lowering: Lowering, rope: Rope, x: Value, heads: HeadShape): Value {
  return added(lowering.build, turnedParts(lowering, rope, x, heads));
}

function added(build: GraphBuilder, [a, b]: readonly [Value, Value]): Value {
  return build.step(build.device.ggml.ggml_add(build.context, a.tensor, b.tensor), [a, b]);
}

/** The kinds of rotation of `ggml_rope_ext`: neighbouring values, or those half a head apart. */
const ropeModes = { neighbours: 0, halves: 2 } as const;

/** By the device's own rotation with our frequencies, where bits are free; undefined where it has none. */
function turnedAtOnce(lowering: Lowering, op: Attention, x: Value, count: number): Value | undefined {
  const { build, rows } = lowering;
  const { ggml } = build.device;
  const { rope, headDim } = op;
  const width = 2 * rope.frequencies.length;
  const heads = { width: headDim, count, rows };
  const split = x.heads ?? build.view(ggml.ggml_reshape_3d(build.context, x.tensor, headDim, count, rows), x);
  const part = rope.from === 0 ? split : partOfHeads(build, split, heads, { from: rope.from, width });
  const { positions, divisors } = (lowering.kv as KvGraph).ropeInputs(build, rope);
  const mode = rope.interleaved ? ropeModes.neighbours : ropeModes.halves;
  const node = ggml.ggml_rope_ext(
    build.context,
    part.tensor,
    positions.tensor,
    divisors.tensor,
    width,
    mode,
    0,
    1,
    1,
    0,
    rope.factor,
    0,
    0,
  );
  if (!build.device.supports(node)) return undefined;
  const own = build.step(node, [part, positions, divisors]);
  if (rope.from === 0) return own;
  const join = (a: Value, b: Value): Value => build.step(ggml.ggml_concat(build.context, a.tensor, b.tensor, 0), [a, b]);
  const joined = join(partOfHeads(build, split, heads, { from: 0, width: rope.from }), own);
  const end = rope.from + width;
  return end === headDim ? joined : join(joined, partOfHeads(build, split, heads, { from: end, width: headDim - end }));
}

/** [headDim, heads, rows], rotated by the position of each row. */
function rotated(lowering: Lowering, op: Attention, x: Value, count: number): Value {
  const { build, rows } = lowering;
  const { ggml } = build.device;
  const atOnce = build.device.exact ? undefined : turnedAtOnce(lowering, op, x, count);
  if (atOnce !== undefined) return atOnce;
  const heads = { width: op.headDim, count, rows };
  const width = 2 * op.rope.frequencies.length;
  const close = x.part === undefined ? x : build.step(ggml.ggml_cont(build.context, x.tensor), [x]);
  const split = build.view(ggml.ggml_reshape_3d(build.context, close.tensor, op.headDim, count, rows), close);
  if (width === op.headDim) return turned(lowering, op.rope, split, heads);
  const part = partOfHeads(build, split, heads, { from: op.rope.from, width });
  const own = build.step(ggml.ggml_cont(build.context, part.tensor), [part]);
  let joined = turned(lowering, op.rope, own, heads);
  if (op.rope.from > 0) {
    const before = partOfHeads(build, split, heads, { from: 0, width: op.rope.from });
    joined = build.step(ggml.ggml_concat(build.context, before.tensor, joined.tensor, 0), [before, joined]);
  }
  const end = op.rope.from + width;
  if (end === op.headDim) return joined;
  const after = partOfHeads(build, split, heads, { from: end, width: op.headDim - end });
  return build.step(ggml.ggml_concat(build.context, joined.tensor, after.tensor, 0), [joined, after]);
}

/** Rotated queries [headDim, heads, rows] and keys [kvHeads * headDim, rows]. */
interface Turned {
  readonly query: Value;
  readonly key: Value;
}

/** Queries and keys that are adjacent in one product are rotated together. */
function turnedBoth(lowering: Lowering, op: Attention): Turned {
  const { build, rows, read } = lowering;
  const { ggml } = build.device;
  const { headDim, heads, rope, among } = op;
  const { kvHeads } = among ?? op;
  const own = heads * headDim;
  if (!build.device.exact) {
    const query = rotated(lowering, op, read(op.q), heads);
    const key = rotated(lowering, op, (lowering.kv as KvGraph).bounded(build, read(op.k), rope), kvHeads);
    const row = kvHeads * headDim;
    return { query, key: build.view(ggml.ggml_view_2d(build.context, key.tensor, row, rows, row * f32Bytes, 0), key) };
  }
  const flat = (key: Value): Value => build.view(ggml.ggml_reshape_2d(build.context, key.tensor, kvHeads * headDim, rows), key);
  const [q, k] = [read(op.q), read(op.k)];
  const together = q.part !== undefined && q.part.whole === k.part?.whole && k.part.from === q.part.from + own;
  if (q.part === undefined || !together || rope.interleaved || 2 * rope.frequencies.length !== headDim) {
    const key = flat(rotated(lowering, op, k, kvHeads));
    return { key, query: rotated(lowering, op, q, heads) };
  }
  const { whole, from, width } = q.part;
  const shape = { width: headDim, count: heads + kvHeads, rows };
  const head = headDim * f32Bytes;
  const split = ggml.ggml_view_3d(build.context, whole.tensor, headDim, shape.count, rows, head, width * f32Bytes, from * f32Bytes);
  const parts = turnedParts(lowering, rope, build.view(split, whole), shape);
  const row = shape.count * head;
  const those = (first: number, count: number): Value => {
    const [a, b] = parts.map((x) =>
      build.view(ggml.ggml_view_3d(build.context, x.tensor, headDim, count, rows, head, row, first * head), x),
    ) as [Value, Value];
    return added(build, [a, b]);
  };
  return { query: those(0, heads), key: flat(those(heads, kvHeads)) };
}

/** The queries of a group: [headDim, tokens, heads, batch], without a copy. */
function ofGroup(build: GraphBuilder, query: Value, op: Attention, { from, tokens, batch }: GroupShape): Value {
  const { ggml } = build.device;
  const { headDim, heads } = op;
  const [head, row] = [headDim * f32Bytes, heads * headDim * f32Bytes];
  const view = ggml.ggml_view_4d(build.context, query.tensor, headDim, tokens, heads, batch, row, head, tokens * row, from * row);
  return build.view(view, query);
}

export function attention(lowering: Lowering, op: Attention): void {
  const { build, weights, read, write } = lowering;
  const { ggml } = build.device;
  const kv = lowering.kv as KvGraph;
  const { query, key } = turnedBoth(lowering, op);
  kv.store(build, op.layer, key, read(op.v));
  const sinks = op.sinks === undefined ? undefined : weights.tensor(op.sinks);
  if (kv.byProducts) {
    write(op.out, byExactProducts(lowering, op, { query, sinks }));
    return;
  }
  const parts = kv.groups.map((group) => {
    const [keys, values] = [kv.keys(build, op, group), kv.values(build, op, group)];
    const q = ofGroup(build, query, op, group);
    const out = attend(build, op, { q, keys, values, mask: kv.mask(build, op.window, group), sinks });
    return build.view(ggml.ggml_reshape_2d(build.context, out.tensor, op.heads * op.valueDim, group.batch * group.tokens), out);
  });
  const join = (all: Value, part: Value): Value => build.step(ggml.ggml_concat(build.context, all.tensor, part.tensor, 1), [all, part]);
  write(op.out, parts.reduce(join));
}
