// The lowering of ops to ggml, a table by op: each adds its nodes to a graph. An op without a line here is refused by name when a model
// opens. Matrices are multiplied by whoever holds them (dense.ts, slab.ts); a value is [width, rows] in ggml's order, innermost first.
import type { Capabilities } from "../../backends/backend.ts";
import type { Op, OpName } from "../../kernels/segment.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { KvGraph } from "./kv.ts";

/** The weights of a segment as graphs use them. */
export interface WeightSource {
  /** weight [N, K] times x [K, rows] -> [N, rows] */
  multiply(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** x [N, rows] + weight [N] in every row */
  addRow(build: GraphBuilder, weight: string, x: Value, rows: number): Value;
  /** The tensor of a weight that all rows share. */
  tensor(weight: string): Pointer;
}

export interface Lowering {
  readonly build: GraphBuilder;
  readonly rows: number;
  readonly weights: WeightSource;
  /** Set where the segment's ops use the KV cache. */
  readonly kv: KvGraph | undefined;
  read(name: string): Value;
  write(name: string, value: Value): void;
}

type OpOf<Name extends OpName> = Extract<Op, { op: Name }>;
type Lower<Name extends OpName> = (lowering: Lowering, op: OpOf<Name>) => void;

const gather: Lower<"gather"> = ({ build, weights, read, write }, op) => {
  const ids = read(op.ids);
  const { ggml } = build.device;
  write(op.out, build.step(ggml.ggml_get_rows(build.context, weights.tensor(op.table), ids.tensor), [ids]));
};

const rmsNorm: Lower<"rmsNorm"> = ({ build, weights, read, write }, op) => {
  const { ggml } = build.device;
  const x = read(op.x);
  const normed = build.step(ggml.ggml_rms_norm(build.context, x.tensor, op.eps), [x]);
  write(op.out, build.step(ggml.ggml_mul(build.context, normed.tensor, weights.tensor(op.weight)), [normed]));
};

const matMul: Lower<"matMul"> = ({ build, weights, rows, read, write }, op) => {
  write(op.out, weights.multiply(build, op.weight, read(op.x), rows));
};

const addRow: Lower<"addRow"> = ({ build, weights, rows, read, write }, op) => {
  write(op.out, weights.addRow(build, op.row, read(op.x), rows));
};

const add: Lower<"add"> = ({ build, read, write }, op) => {
  const [a, b] = [read(op.a), read(op.b)];
  write(op.out, build.step(build.device.ggml.ggml_add(build.context, a.tensor, b.tensor), [a, b]));
};

const siluMul: Lower<"siluMul"> = ({ build, read, write }, op) => {
  const [a, b] = [read(op.a), read(op.b)];
  write(op.out, build.step(build.device.ggml.ggml_swiglu_split(build.context, a.tensor, b.tensor), [a, b]));
};

/** [headDim, heads, rows], each head turned to the position of its row: x * cos + (x with its halves swapped) * (-sin, sin). By our own
 *  tables, since ggml's angles differ from transformers' by 1e-4 at position 2,000. */
function rotated({ build, rows, kv }: Lowering, op: OpOf<"attention">, x: Value, heads: number): Value {
  const { ggml } = build.device;
  const { cos, sin } = (kv as KvGraph).rotation(build, op);
  const split = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, op.headDim, heads, rows), x);
  const swapped = build.step(ggml.ggml_roll(build.context, split.tensor, op.headDim / 2, 0, 0, 0), [split]);
  const straight = build.step(ggml.ggml_mul(build.context, split.tensor, cos.tensor), [split, cos]);
  const across = build.step(ggml.ggml_mul(build.context, swapped.tensor, sin.tensor), [swapped, sin]);
  return build.step(ggml.ggml_add(build.context, straight.tensor, across.tensor), [straight, across]);
}

/** New keys and values are stored first, so that attention finds them in the cache like all others. */
const attention: Lower<"attention"> = (lowering, op) => {
  const { build, rows, read, write } = lowering;
  const { ggml } = build.device;
  const kv = lowering.kv as KvGraph;
  const key = rotated(lowering, op, read(op.k), op.kvHeads);
  kv.store(build, op.layer, build.view(ggml.ggml_reshape_2d(build.context, key.tensor, op.kvHeads * op.headDim, rows), key), read(op.v));
  const query = rotated(lowering, op, read(op.q), op.heads);
  const { batch, tokens } = kv.call;
  const split = build.view(ggml.ggml_reshape_4d(build.context, query.tensor, op.headDim, op.heads, tokens, batch), query);
  const q = build.view(ggml.ggml_permute(build.context, split.tensor, 0, 2, 1, 3), split);
  const [keys, values, mask] = [kv.keys(build, op.layer), kv.values(build, op.layer), kv.mask(build, op.window)];
  const out = build.step(ggml.ggml_flash_attn_ext(build.context, q.tensor, keys.tensor, values.tensor, mask.tensor, op.scale, 0, 0), [
    q,
    keys,
    values,
    mask,
  ]);
  write(op.out, build.view(ggml.ggml_reshape_2d(build.context, out.tensor, op.heads * op.headDim, rows), out));
};

/** Ops that stand at a segment's end and are computed by their kernels on values read back: a few numbers a row, in a fixed order. */
export const hostOps: ReadonlySet<OpName> = new Set<OpName>(["route"]);

const lowerings: { readonly [Name in OpName]?: Lower<Name> } = { gather, rmsNorm, matMul, attention, add, addRow, siluMul };

/** Known without the library. */
export const ggmlCapabilities: Capabilities = {
  ops: new Set<string>([...Object.keys(lowerings), ...hostOps]),
  refuses: () => undefined,
};

export function lower(lowering: Lowering, op: Op): void {
  const found = lowerings[op.op] as ((lowering: Lowering, op: Op) => void) | undefined;
  if (found === undefined) throw new TypeError(`op ${op.op} has no lowering`);
  found(lowering, op);
}
