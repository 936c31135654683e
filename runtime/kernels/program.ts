// Runs a segment by its kernels, forward and backward, for the reference backend and training.
import { kernelOf } from "./index.ts";
import { floats, type Gradients, type Kernel, type KvRows, type Values } from "./kernel.ts";
import type { Op, Segment, Tensor } from "./segment.ts";

/** Never called for a segment without a cache. */
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

/** Returns every value by name: inputs, weights and the ops' outputs (a tape). */
export function evaluate(segment: Segment, given: Values, kvOf: KvOfLayer): Map<string, Tensor> {
  const values = new Map(Object.entries(given));
  for (const op of segment.ops) {
    const kernel = kernelOf(op);
    const kv = kvRowsOf(op, kernel, kvOf);
    for (const [name, value] of Object.entries(kernel.forward(op, { read: reader(values, segment), kv }))) values.set(name, value);
  }
  return values;
}

/** Gradients of every f32 input, weight and intermediate. `tape` is the result of `evaluate`; KV calls must start at past 0. */
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
