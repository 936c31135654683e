// The checks that every backend makes before it computes.
import { AppError } from "../../crds/common.ts";
import { kernelOf } from "../kernels/index.ts";
import { checkKvGroups } from "../kernels/kv-groups.ts";
import type { Segment } from "../kernels/segment.ts";
import { blockOf, valuesIn, type WeightData, type Weights } from "../kernels/weights.ts";
import type { Capabilities, Inputs, KvCall } from "./backend.ts";

function invalid(segment: Segment, message: string): AppError {
  return new AppError(`${segment.name}: ${message}`, { code: "InvalidArgument", operation: "running a segment" });
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Throws an error that names a missing weight. */
export function weightOf(segment: Segment, weights: Weights, name: string): WeightData {
  const declared = segment.weights.find((weight) => weight.name === name);
  const weight = weights[name];
  if (!declared || !weight) throw invalid(segment, `weight ${name} is missing`);
  if (declared.shape.join() !== weight.shape.join()) {
    throw invalid(segment, `weight ${name} is [${weight.shape.join(", ")}], the model wants [${declared.shape.join(", ")}]`);
  }
  const columns = weight.shape.at(-1) ?? 1;
  if (columns % blockOf(weight.form) !== 0)
    throw invalid(segment, `weight ${name} has rows of ${columns} values, ${weight.form} needs a multiple of ${blockOf(weight.form)}`);
  const values = valuesIn(weight);
  if (values !== sizeOf(declared.shape)) throw invalid(segment, `weight ${name} holds ${values} values, not ${sizeOf(declared.shape)}`);
  return weight;
}

/** Checks inputs and returns the rows of the call. */
export function checkInputs(segment: Segment, inputs: Inputs): number {
  let rows = -1;
  for (const declared of segment.inputs) {
    const input = inputs[declared.name];
    if (!input) throw invalid(segment, `input ${declared.name} is missing`);
    if (input.data instanceof Float32Array !== (declared.dtype === "f32"))
      throw invalid(segment, `input ${declared.name} is not ${declared.dtype}`);
    const width = declared.width === 0 ? 1 : declared.width;
    const n = input.data.length / width;
    if (!Number.isInteger(n))
      throw invalid(segment, `input ${declared.name} holds ${input.data.length} values, no multiple of its width ${width}`);
    if (rows >= 0 && n !== rows) throw invalid(segment, `input ${declared.name} has ${n} rows, the others ${rows}`);
    rows = n;
  }
  return Math.max(rows, 0);
}

/** Refuses unsupported ops when a model opens, not during a request. */
export function checkOps({ ops, refuses }: Capabilities, device: string, segment: Segment): void {
  for (const op of segment.ops) {
    const known = ops.has(op.op);
    const reason = known ? refuses(op) : `op ${op.op} is not computed by this backend`;
    if (reason === undefined) continue;
    throw new AppError(`${segment.name}: ${reason} (${device})`, {
      code: known ? "UnsupportedShape" : "UnsupportedOp",
      operation: "opening a model",
    });
  }
}

/** Requires a KV call that fits the cache if the segment uses it. */
export function checkKv(segment: Segment, kv: KvCall | undefined, rows: number): void {
  const user = segment.ops.find((op) => kernelOf(op).kvLayer !== undefined);
  if (user === undefined) return;
  if (!kv) throw invalid(segment, `has ${user.op} and needs a KV call`);
  checkKvGroups(kv.groups, kv.cache, rows);
}

export function checkCopy(cache: { readonly slots: number; readonly context: number }, from: number, to: number, length: number): void {
  const slotOk = (slot: number): boolean => Number.isInteger(slot) && slot >= 0 && slot < cache.slots;
  if (slotOk(from) && slotOk(to) && length >= 0 && length <= cache.context) return;
  throw new AppError(`copy of ${length} positions from slot ${from} to ${to}: the cache has ${cache.slots} slots of ${cache.context}`, {
    code: "InvalidArgument",
    operation: "copying a KV slot",
  });
}
