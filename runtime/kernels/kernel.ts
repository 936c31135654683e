// The declaration of an op in its one file: what it reads, what it writes and how wide, whether it uses the KV cache, forward, backward,
// tolerance, and the cases it is tested on.
import type { KvGroup } from "./kv-groups.ts";
import type { DType, SegmentOf, Tensor } from "./tensor.ts";

/** What every op has; the op of a kernel adds its own fields. */
interface AnyOp {
  readonly op: string;
}

/** One layer's KV storage as an attention op sees it, [slot][kvHeads][context][headDim, valueDim for values], and which rows the call adds.
 *  */
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

/** One test case: a segment of this op alone with seeded inputs. */
export interface KernelCase<O extends AnyOp> {
  readonly name: string;
  readonly segment: SegmentOf<O>;
  readonly weights: Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>>;
  readonly inputs: Values;
  /** Outputs that hang on the order of equals: held to the oracle's on exact backends alone. */
  readonly byOrder?: readonly string[];
  readonly kv?: {
    readonly slots: number;
    readonly kvHeads: number;
    readonly context: number;
    readonly headDim: number;
    readonly valueDim: number;
    readonly groups: readonly KvGroup[];
  };
}

/** Sizes of what an op reads, where it stands in its segment. */
interface Sizes {
  /** Elements a row of a value; 0 for integers [n]. */
  width(value: string): number;
  shape(weight: string): readonly number[];
}

/** The shares of all experts in one row of a gate's logits. */
export interface Shares {
  /** They sum to 1. */
  readonly values: Float64Array;
  /** Gradient of the logits from that of the shares. */
  gradient(dShares: Float64Array): Float64Array;
}

interface OpOutput {
  readonly name: string;
  readonly dtype: DType;
  /** Elements a row. */
  readonly width: (sizes: Sizes) => number;
}

export interface Kernel<O extends AnyOp> {
  readonly name: O["op"];
  /** No model that is served has it: backends of serving may lack it. */
  readonly trainedOnly?: true;
  reads(op: O): readonly string[];
  outputs(op: O): readonly OpOutput[];
  /** Layer of the KV cache that the op reads and appends to; left out by ops that use none. */
  kvLayer?(op: O): number;
  /** The value that a gate chooses experts by; left out by ops that are no gates. */
  gateLogits?(op: O): string;
  /** Of a gate: what losses of balance are means of. */
  shares?(op: O, logits: Float32Array): Shares;
  /** Of an op of the host in training that is no gate: the values that backward reads beside the segment's inputs and outputs. */
  keeps?(op: O): readonly string[];
  /** Of a gate: the weight that is added to its choices and to nothing else, where it has one. */
  choiceBias?(op: O): string | undefined;
  /** Returns the written values. f32 storage, f64 accumulation: the oracle. */
  forward(op: O, context: OpContext): Values;
  /** Gradients of the values read (integers have none) from those of the values written. */
  backward(op: O, context: OpContext, outputs: Gradients): Gradients;
  /** Bound of max|a-b| / max|b| for an f32 backend against `forward`; 0 = bit-identical. */
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

/** Rows and width of a value as ops see it: [n, width]. */
export function matrix(tensor: Tensor): { readonly rows: number; readonly width: number } {
  return { rows: tensor.shape[0] ?? 0, width: tensor.shape[1] ?? 1 };
}

export function gradientOf(gradients: Gradients, name: string): Float32Array {
  const gradient = gradients[name];
  if (!gradient) throw new TypeError(`no gradient for ${name}`);
  return gradient;
}
