// The declaration of an op (DECISIONS.md 1).
import type { KvGroup } from "./kv-groups.ts";
import type { DType, SegmentOf, Tensor } from "./tensor.ts";

interface AnyOp {
  readonly op: string;
}

/** One layer's KV storage, [slot][kvHeads][context][headDim, valueDim for values], and the call's rows. */
export interface KvRows {
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly context: number;
  readonly groups: readonly KvGroup[];
}

export interface OpContext {
  read(name: string): Tensor;
  readonly kv?: KvRows | undefined;
}

export type Values = Readonly<Record<string, Tensor>>;
export type Gradients = Readonly<Record<string, Float32Array>>;

export interface KernelCase<O extends AnyOp> {
  readonly name: string;
  readonly segment: SegmentOf<O>;
  readonly weights: Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>>;
  readonly inputs: Values;
  /** Outputs that depend on ties: compared on exact backends only. */
  readonly byOrder?: readonly string[];
  readonly kv?: {
    readonly slots: number;
    readonly heads: number;
    readonly kvHeads: number;
    readonly context: number;
    readonly headDim: number;
    readonly valueDim: number;
    readonly groups: readonly KvGroup[];
  };
}

interface Sizes {
  /** Elements per row; 0 for integers [n]. */
  width(value: string): number;
  shape(weight: string): readonly number[];
}

export interface Shares {
  readonly values: Float64Array;
  /** Gradient of the logits from that of the probabilities. */
  gradient(dShares: Float64Array): Float64Array;
}

interface OpOutput {
  readonly name: string;
  readonly dtype: DType;
  readonly width: (sizes: Sizes) => number;
}

export interface Kernel<O extends AnyOp> {
  readonly name: O["op"];
  /** Serving backends may lack it. */
  readonly trainedOnly?: true;
  reads(op: O): readonly string[];
  outputs(op: O): readonly OpOutput[];
  /** Absent for ops without the cache. */
  kvLayer?(op: O): number;
  /** Absent for ops that are no gates. */
  gateLogits?(op: O): string;
  /** Gates have it: the inputs of balance losses. */
  shares?(op: O, logits: Float32Array): Shares;
  /** Host ops of training name values that backward reads beside inputs and outputs. */
  keeps?(op: O): readonly string[];
  /** The weight of a gate that only affects the choice. */
  choiceBias?(op: O): string | undefined;
  /** The oracle: f32 storage, f64 accumulation. */
  forward(op: O, context: OpContext): Values;
  /** Gradients of the inputs (integers have none) from those of the outputs. */
  backward(op: O, context: OpContext, outputs: Gradients): Gradients;
  /** Bound of max|a-b| / max|b| in f32 against `forward`; 0 = bit-identical. */
  readonly tolerance: number;
  cases(): readonly KernelCase<O>[];
}

export function floats(tensor: Tensor): Float32Array {
  if (tensor.data instanceof Float32Array) return tensor.data;
  throw new TypeError("an f32 tensor was expected, found i32");
}

export function ints(tensor: Tensor): Int32Array {
  if (tensor.data instanceof Int32Array) return tensor.data;
  throw new TypeError("an i32 tensor was expected, found f32");
}

/** Reads a value as [n, width]. */
export function matrix(tensor: Tensor): { readonly rows: number; readonly width: number } {
  return { rows: tensor.shape[0] ?? 0, width: tensor.shape[1] ?? 1 };
}

export function gradientOf(gradients: Gradients, name: string): Float32Array {
  const gradient = gradients[name];
  if (!gradient) throw new TypeError(`no gradient for ${name}`);
  return gradient;
}

type NewCase<O extends AnyOp> = Omit<KernelCase<O>, "segment" | "weights"> & {
  readonly op: O;
  readonly weights?: KernelCase<O>["weights"];
};

/** A segment of one op, whose types are those of the given tensors. */
export function kernelCase<O extends AnyOp>(of: Pick<Kernel<O>, "outputs">, { op, weights = {}, ...given }: NewCase<O>): KernelCase<O> {
  const inputs = Object.entries(given.inputs).map(([name, { shape, data }]) => {
    return { name, dtype: data instanceof Int32Array ? ("i32" as const) : ("f32" as const), width: shape[1] ?? 0 };
  });
  const sizes: Sizes = {
    width: (value) => given.inputs[value]?.shape[1] ?? 0,
    shape: (weight) => weights[weight]?.shape ?? [],
  };
  const outputs = of.outputs(op).map(({ name, dtype, width }) => ({ name, dtype, width: width(sizes) }));
  const declared = Object.entries(weights).map(([name, { shape }]) => ({ name, shape }));
  return { ...given, weights, segment: { name: op.op, inputs, outputs, weights: declared, ops: [op] } };
}
