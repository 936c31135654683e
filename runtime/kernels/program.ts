// The run of a whole segment by its kernels, forward and backward: what the reference backend executes and where training hooks in.
import { kernelOf } from "./index.ts";
import { floats, type Gradients, type Kernel, type KvRows, type Values } from "./kernel.ts";
import type { Op, Segment, Tensor } from "./segment.ts";

/** The KV rows of a layer; a segment whose ops use no cache never asks. */
export type KvOfLayer = (layer: number) => KvRows | undefined;

function reader(values: Map<string, Tensor>, segment: Segment): (name: string) => Tensor {
  return (name) => {
    const value = values.get(name);
    if (!value) throw new TypeError(`${segment.name}: ${name} is read before it is written`);
    return value;
  };
}

function kvRowsOf(op: Op, kernel: Kernel<Op>, kvOf: KvOfLayer): KvRows | undefined {
  const layer = kernel.kvLayer?.(op);
  return layer === undefined ? undefined : kvOf(layer);
}

/** Every value of the segment by name: inputs and weights given, and what its ops wrote (a tape, when it is kept). */
export function evaluate(segment: Segment, given: Values, kvOf: KvOfLayer): Map<string, Tensor> {
  const values = new Map(Object.entries(given));
  for (const op of segment.ops) {
    const kernel = kernelOf(op);
    const kv = kvRowsOf(op, kernel, kvOf);
    for (const [name, value] of Object.entries(kernel.forward(op, { read: reader(values, segment), kv }))) values.set(name, value);
  }
  return values;
}

/** Gradients of every f32 input, weight and intermediate, from those of the outputs. `tape` is what `evaluate` returned; KV calls must
 *  start at past 0. */
export function differentiate(segment: Segment, tape: Map<string, Tensor>, outputs: Gradients, kvOf: KvOfLayer): Gradients {
  const gradients = new Map<string, Float32Array>();
  const accumulate = (name: string, gradient: Float32Array): void => {
    const sum = gradients.get(name);
    gradients.set(name, sum ? sum.map((value, i) => value + (gradient[i] as number)) : gradient);
  };
  for (const [name, gradient] of Object.entries(outputs)) accumulate(name, gradient);
  const read = reader(tape, segment);
  for (const op of segment.ops.toReversed()) {
    const kernel = kernelOf(op);
    const written: Record<string, Float32Array> = {};
    for (const { name, dtype } of kernel.outputs(op)) {
      if (dtype === "f32") written[name] = gradients.get(name) ?? new Float32Array(floats(read(name)).length);
    }
    const kv = kvRowsOf(op, kernel, kvOf);
    for (const [name, gradient] of Object.entries(kernel.backward(op, { read, kv }, written))) accumulate(name, gradient);
  }
  return Object.fromEntries(gradients);
}
