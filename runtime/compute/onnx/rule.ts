// The rule of an op: the nodes of its forward and backward, or that the host computes it.
import type { Gradients, Kernel } from "../../kernels/kernel.ts";
import type { Op, Tensor } from "../../kernels/segment.ts";
import type { Graph } from "./graph.ts";

export interface Emitter {
  readonly graph: Graph;
  /** Rows per sequence; a call has whole sequences. */
  readonly tokens: number;
  value(name: string): string;
  width(name: string): number;
  shape(weight: string): readonly number[];
}

export interface BackwardEmitter extends Emitter {
  give(value: string, gradient: string): void;
  /** Adds to the sum of a weight's gradients: `add` maps the old sum to the new one. */
  accumulate(weight: string, add: (sum: string) => string): void;
}

export interface DeviceRule<O extends Op = Op> {
  readonly on: "device";
  /** The output; every device op has exactly one. */
  readonly out: (op: O) => string;
  /** The reason why this op cannot be trained in its sizes; undefined if it can. */
  refuses?(op: O): string | undefined;
  forward(op: O, at: Emitter): string;
  backward(op: O, at: BackwardEmitter, dOut: string): void;
  /**
   * `backward` for an output that a gate [rows, 1] multiplies: dOut is that of the product; returns the gate's gradient [rows, 1]. Absent
   * where it would need the output.
   */
  gated?(op: O, at: BackwardEmitter, gradient: { readonly dOut: string; readonly gate: string }): string;
}

/** Computed by the op's own kernel on the host: integers, and sums in token order. */
export interface HostRule<O extends Op = Op> {
  readonly on: "host";
  /** Returns the gradients of values; those of weights are added to `sums`. */
  backward(op: O, call: HostCall, kernel: Kernel<O>): Gradients;
}

interface HostCall {
  read(name: string): Tensor;
  readonly outputs: Gradients;
  readonly sums: Readonly<Record<string, Float32Array>>;
}

export type Rule<O extends Op = Op> = DeviceRule<O> | HostRule<O>;
