// The rule of an op: the nodes that it becomes, forward and backward, or that the host computes it. An op's rule stands in its one file in
// rules/.
import type { Gradients, Kernel } from "../../kernels/kernel.ts";
import type { Op, Tensor } from "../../kernels/segment.ts";
import type { Graph } from "./graph.ts";

/** A segment's values while its graph is written. */
export interface Emitter {
  readonly graph: Graph;
  /** Rows of each sequence; a call has whole sequences. */
  readonly tokens: number;
  /** The graph's name of a value or weight of the segment. */
  value(name: string): string;
  /** Elements a row of a value. */
  width(name: string): number;
  shape(weight: string): readonly number[];
}

export interface BackwardEmitter extends Emitter {
  /** Adds to the gradient of a value. */
  give(value: string, gradient: string): void;
  /** Adds to the sum of a weight's gradients: `add` gets the sum so far and returns the new one. */
  accumulate(weight: string, add: (sum: string) => string): void;
}

export interface DeviceRule<O extends Op = Op> {
  readonly on: "device";
  /** The value written; every op of a device writes one. */
  readonly out: (op: O) => string;
  /** The reason why this op cannot be trained in its sizes; undefined where it can. */
  refuses?(op: O): string | undefined;
  /** Returns the graph's name of the value written. */
  forward(op: O, at: Emitter): string;
  backward(op: O, at: BackwardEmitter, dOut: string): void;
  /** `backward` of rows that are multiplied by a gate [rows, 1] after this op: dOut is of the product; returns the gate's gradient [rows,
   *  1]. Left out where there is no way without the value written. */
  gated?(op: O, at: BackwardEmitter, gradient: { readonly dOut: string; readonly gate: string }): string;
}

/** Computed by the op's own kernel, beside the device: integers, and sums in the order of tokens. */
export interface HostRule<O extends Op = Op> {
  readonly on: "host";
  /** The gradients of the values read; those of weights are added to `sums`. */
  backward(op: O, call: HostCall, kernel: Kernel<O>): Gradients;
}

interface HostCall {
  read(name: string): Tensor;
  readonly outputs: Gradients;
  /** By weight. */
  readonly sums: Readonly<Record<string, Float32Array>>;
}

export type Rule<O extends Op = Op> = DeviceRule<O> | HostRule<O>;
