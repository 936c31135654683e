// A segment as the device runs it: dispatches in order, weights laid out for upload, widths of every value. Pure.
import { checkIds } from "../../kernels/gather.ts";
import { ints } from "../../kernels/kernel.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, plainForm, plainWeight, type WeightForms, type Weights } from "../../kernels/weights.ts";
import type { Inputs } from "../backend.ts";
import { weightOf } from "../check.ts";
import { matrixBytes } from "./layout.ts";
import { lower } from "./wgsl/index.ts";
import type { Dispatch, Lowering } from "./wgsl/lower.ts";

export interface LoweredSegment {
  readonly segment: Segment;
  readonly dispatches: readonly Dispatch[];
  readonly uploads: ReadonlyMap<string, Float32Array | Uint32Array>;
  /** 4-byte elements a row, of inputs and of everything written. */
  readonly widths: ReadonlyMap<string, number>;
}

export function lowerSegment(segment: Segment, weights: Weights, bindingBytes: number): LoweredSegment {
  for (const { name } of segment.weights) weightOf(segment, weights, name);
  const widths = new Map(segment.inputs.map(({ name, width }) => [name, width === 0 ? 1 : width]));
  const uploads = new Map<string, Float32Array | Uint32Array>();
  const dispatches: Dispatch[] = [];
  const context = {
    bindingBytes,
    weight: (name: string) => plainWeight(weightOf(segment, weights, name)),
    weightF32: (name: string) => asF32(weightOf(segment, weights, name)),
    width(name: string): number {
      const width = widths.get(name);
      if (width === undefined) throw new TypeError(`${segment.name}: ${name} is read before it is written`);
      return width;
    },
  };
  for (const op of segment.ops) {
    const lowering: Lowering = lower(op, context);
    dispatches.push(...lowering.dispatches);
    for (const [id, data] of Object.entries(lowering.uploads)) uploads.set(id, data);
    for (const [name, width] of Object.entries(lowering.written)) widths.set(name, width);
  }
  return { segment, dispatches, uploads, widths };
}

/** Bytes the segment's weights take on the device in these forms, known before they are read. */
export function residentBytesOf(segment: Segment, forms: WeightForms): number {
  return segment.weights.reduce((bytes, { name, shape }) => bytes + matrixBytes(plainForm(forms[name] ?? "f32"), shape), 0);
}

/** Ids that arrive as inputs are checked on the host: a kernel would only skip what is out of range. */
export function checkGathers(segment: Segment, inputs: Inputs): void {
  for (const op of segment.ops) {
    const ids = op.op === "gather" ? inputs[op.ids] : undefined;
    const table = op.op === "gather" ? segment.weights.find(({ name }) => name === op.table) : undefined;
    if (ids && table) checkIds(ints(ids), table.shape[0] ?? 0);
  }
}
