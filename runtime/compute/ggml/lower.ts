// The lowering of ops to ggml nodes, by op. A model with an op that is missing here is refused when it opens.
import type { Op, OpName } from "../../kernels/segment.ts";
import type { Capabilities } from "../backend.ts";
import { attention, partOfHeads } from "./attention.ts";
import { softmax } from "./choosing.ts";
import { freeExperts } from "./free-experts.ts";
import { candidates, groupRoute, route } from "./gates.ts";
import type { Value } from "./graph.ts";
import type { Lowering } from "./lowering.ts";

type OpOf<Name extends OpName> = Extract<Op, { op: Name }>;
type Lower<Name extends OpName> = (lowering: Lowering, op: OpOf<Name>) => void;

const f32Bytes = 4;

function widthIn(widths: ReadonlyMap<string, number>, name: string): number {
  const width = widths.get(name);
  if (width === undefined) throw new TypeError(`${name} has no width`);
  return width;
}

const gather: Lower<"gather"> = ({ build, weights, read, write }, op) => {
  const ids = read(op.ids);
  const { ggml } = build.device;
  write(op.out, build.step(ggml.ggml_get_rows(build.context, weights.tensor(op.table), ids.tensor), [ids]));
};

/** Before the rotation that reads it, with which a device makes one kernel of it. */
const rmsNorm: Lower<"rmsNorm"> = (lowering, op) => {
  const { build, weights, rows, widths, read, later } = lowering;
  const { heads = 1 } = op;
  if (heads === 1 || build.device.exact) return normalized(lowering, op, heads);
  later(op.out, () => {
    const { ggml } = build.device;
    const [x, width] = [read(op.x), widthIn(widths, op.x)];
    const parts = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, width / heads, heads, rows), x);
    const normed = build.step(ggml.ggml_rms_norm(build.context, parts.tensor, op.eps), [parts]);
    const scaled = build.step(ggml.ggml_mul(build.context, normed.tensor, weights.tensor(op.weight)), [normed, parts]);
    return Object.assign(build.view(ggml.ggml_reshape_2d(build.context, scaled.tensor, width, rows), scaled), {
      heads: scaled,
      normed: true,
    });
  });
};

const normalized = ({ build, weights, rows, widths, read, write }: Lowering, op: OpOf<"rmsNorm">, heads: number): void => {
  const { ggml } = build.device;
  const width = widthIn(widths, op.x);
  const x = read(op.x);
  const parts = heads === 1 ? x : build.view(ggml.ggml_reshape_2d(build.context, x.tensor, width / heads, heads * rows), x);
  const normed = build.step(ggml.ggml_rms_norm(build.context, parts.tensor, op.eps), [parts]);
  const scaled = build.step(ggml.ggml_mul(build.context, normed.tensor, weights.tensor(op.weight)), [normed, parts]);
  const flat = heads === 1 ? scaled : build.view(ggml.ggml_reshape_2d(build.context, scaled.tensor, width, rows), scaled);
  write(op.out, Object.assign(flat, { normed: true }));
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

const scale: Lower<"scale"> = ({ build, read, write }, op) => {
  const x = read(op.x);
  write(op.out, build.step(build.device.ggml.ggml_scale(build.context, x.tensor, op.by), [x]));
};

const gru: Lower<"gru"> = ({ build, rows, widths, read, write }, op) => {
  const { ggml } = build.device;
  const [given, held, state] = [read(op.given), read(op.held), read(op.state)];
  const width = widthIn(widths, op.state);
  const part = (x: Value, i: number): Value => {
    const view = build.view(ggml.ggml_view_2d(build.context, x.tensor, width, rows, 3 * width * f32Bytes, i * width * f32Bytes), x);
    return build.step(ggml.ggml_cont(build.context, view.tensor), [view]);
  };
  const sum = (a: Value, b: Value): Value => build.step(ggml.ggml_add(build.context, a.tensor, b.tensor), [a, b]);
  const product = (a: Value, b: Value): Value => build.step(ggml.ggml_mul(build.context, a.tensor, b.tensor), [a, b]);
  const scaled = (x: Value, by: number, more: number): Value => build.step(ggml.ggml_scale_bias(build.context, x.tensor, by, more), [x]);
  const sigmoid = (x: Value): Value => build.step(ggml.ggml_sigmoid(build.context, x.tensor), [x]);
  const [r, z] = [0, 1].map((i) => sigmoid(sum(part(given, i), part(held, i)))) as [Value, Value];
  // tanh by sigmoid, which every device has.
  const fresh = scaled(sigmoid(scaled(sum(part(given, 2), product(r, part(held, 2))), 2, 0)), 2, -1);
  write(op.out, sum(product(scaled(z, -1, 1), fresh), product(z, state)));
};

const mixHeads: Lower<"mixHeads"> = ({ build, rows, widths, read, write }, op) => {
  const { ggml } = build.device;
  const [x, logits] = [read(op.x), read(op.logits)];
  const [width, shares] = [widthIn(widths, op.x), widthIn(widths, op.logits)];
  const parts = build.view(ggml.ggml_reshape_4d(build.context, x.tensor, width / op.parts, shares, op.parts / shares, rows), x);
  const softened = softmax(build, logits);
  const each = build.view(ggml.ggml_reshape_4d(build.context, softened.tensor, 1, shares, 1, rows), softened);
  const mixed = build.step(ggml.ggml_mul(build.context, parts.tensor, each.tensor), [parts, each]);
  write(op.out, build.view(ggml.ggml_reshape_2d(build.context, mixed.tensor, width, rows), mixed));
};

const siluMul: Lower<"siluMul"> = ({ build, read, write }, op) => {
  const [a, b] = [read(op.a), read(op.b)];
  write(op.out, build.step(build.device.ggml.ggml_swiglu_split(build.context, a.tensor, b.tensor), [a, b]));
};

const clampedSwiglu: Lower<"clampedSwiglu"> = ({ build, read, write }, op) => {
  const [a, b] = [read(op.a), read(op.b)];
  write(op.out, build.step(build.device.ggml.ggml_swiglu_oai(build.context, a.tensor, b.tensor, op.alpha, op.limit), [a, b]));
};

const slice: Lower<"slice"> = ({ build, rows, widths, read, write }, op) => {
  const { ggml } = build.device;
  const x = read(op.x);
  const part = partOfHeads(build, x, { width: widthIn(widths, op.x) / op.heads, count: op.heads, rows }, op);
  const own = build.step(ggml.ggml_cont(build.context, part.tensor), [part]);
  write(op.out, build.view(ggml.ggml_reshape_2d(build.context, own.tensor, op.heads * op.width, rows), own));
};

const joinHeads: Lower<"joinHeads"> = ({ build, rows, widths, read, write }, op) => {
  const { ggml } = build.device;
  const [x, shared] = [read(op.x), read(op.shared)];
  const [width, more] = [widthIn(widths, op.x) / op.heads, widthIn(widths, op.shared)];
  const split = build.view(ggml.ggml_reshape_3d(build.context, x.tensor, width, op.heads, rows), x);
  const one = build.view(ggml.ggml_reshape_3d(build.context, shared.tensor, more, 1, rows), shared);
  const each = build.step(ggml.ggml_repeat_4d(build.context, one.tensor, more, op.heads, rows, 1), [one]);
  const joined = build.step(ggml.ggml_concat(build.context, split.tensor, each.tensor, 0), [split, each]);
  write(op.out, build.view(ggml.ggml_reshape_2d(build.context, joined.tensor, op.heads * (width + more), rows), joined));
};

const lowerings: { readonly [Name in OpName]?: Lower<Name> } = {
  gather,
  rmsNorm,
  matMul,
  attention,
  add,
  addRow,
  siluMul,
  clampedSwiglu,
  slice,
  joinHeads,
  candidates,
  route,
  groupRoute,
  scale,
  freeExperts,
  gru,
  mixHeads,
};

/** Needs no library. */
export const ggmlCapabilities: Capabilities = {
  ops: new Set<string>(Object.keys(lowerings)),
  refuses: () => undefined,
};

export function lower(lowering: Lowering, op: Op): void {
  const found = lowerings[op.op] as ((lowering: Lowering, op: Op) => void) | undefined;
  if (found === undefined) throw new TypeError(`op ${op.op} has no lowering`);
  found(lowering, op);
}
