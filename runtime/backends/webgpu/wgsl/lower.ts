// The form of a lowered op: dispatches over named values, weights and KV. Types and helpers only; the lowerings are in the files
// beside this one. Pure.
import type { Op, Rope } from "../../../kernels/segment.ts";
import type { PlainWeight } from "../../../kernels/weights.ts";
import { workgroupSize } from "./shader.ts";

/** The thing that a kernel's storage binding is bound to. */
export type Binding =
  | { readonly kind: "value"; readonly name: string }
  | { readonly kind: "weight"; readonly id: string }
  | { readonly kind: "past" }
  | { readonly kind: "kv"; readonly layer: number; readonly part: "keys" | "values" }
  | { readonly kind: "rope"; readonly rope: Rope };

export interface Dispatch {
  readonly label: string;
  readonly wgsl: string;
  /** Bindings 1.. in order; binding 0 is the parameters. */
  readonly bindings: readonly Binding[];
  /** Workgroups for a call of this many rows. */
  readonly groups: (rows: number) => number;
}

export interface Lowering {
  readonly dispatches: readonly Dispatch[];
  /** Device data of weights by id; ids are unique within a segment. */
  readonly uploads: Readonly<Record<string, Float32Array | Uint32Array>>;
  /** Values written, with their width (4-byte elements a row). */
  readonly written: Readonly<Record<string, number>>;
}

export interface LowerContext {
  /** Width of a value already there. */
  width(name: string): number;
  weight(name: string): PlainWeight;
  /** A weight as f32, whatever its form: for what is looked up or scaled by. */
  weightF32(name: string): Float32Array;
  readonly bindingBytes: number;
}

export type Lower<O extends Op = Op> = (op: O, context: LowerContext) => Lowering;

export const value = (name: string): Binding => ({ kind: "value", name });
export const weightId = (id: string): Binding => ({ kind: "weight", id });

/** Workgroups for one thread per item. */
export const flatGroups = (items: number): number => Math.ceil(items / workgroupSize);
