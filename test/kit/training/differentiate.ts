// The gradient of a segment by its kernels' own backward, which finite differences and training backends are compared with.
import type { KvOfLayer } from "../../../runtime/compute/reference.ts";
import type { crossEntropy } from "../../../runtime/kernels/cross-entropy.ts";
import { kernelOf } from "../../../runtime/kernels/index.ts";
import { floats, type Gradients } from "../../../runtime/kernels/kernel.ts";
import { softmax } from "../../../runtime/kernels/route.ts";
import type { Segment, Tensor } from "../../../runtime/kernels/segment.ts";

/** Gradients of every f32 input, weight and intermediate. `tape` is the result of `evaluate`; KV calls must start at past 0. */
export function differentiate(segment: Segment, tape: Map<string, Tensor>, outputs: Gradients, kvOf: KvOfLayer): Gradients {
  const gradients = new Map<string, Float32Array>();
  const accumulate = (name: string, gradient: Float32Array): void => {
    const sum = gradients.get(name);
    gradients.set(name, sum ? sum.map((value, i) => value + (gradient[i] as number)) : gradient);
  };
  for (const [name, gradient] of Object.entries(outputs)) accumulate(name, gradient);
  const read = (name: string): Tensor => tape.get(name) as Tensor;
  for (const op of segment.ops.toReversed()) {
    const kernel = kernelOf(op);
    const written: Record<string, Float32Array> = {};
    for (const { name, dtype } of kernel.outputs(op)) {
      if (dtype === "f32") written[name] = gradients.get(name) ?? new Float32Array(floats(read(name)).length);
    }
    const layer = kernel.kvLayer?.(op);
    const kv = layer === undefined ? undefined : kvOf(layer);
    for (const [name, gradient] of Object.entries(kernel.backward(op, { read, kv }, written))) accumulate(name, gradient);
  }
  return Object.fromEntries(gradients);
}

/** The gradient of sum(scale * loss) by the logits of rows: (softmax - 1 at the target) * scale. */
export function crossEntropyBackward({ logits, targets }: Parameters<typeof crossEntropy>[0], scales: Float32Array): Float32Array {
  const gradient = new Float32Array(logits.length);
  const vocab = logits.length / targets.length;
  for (const [row, target] of targets.entries()) {
    for (const [i, p] of softmax(logits.subarray(row * vocab, (row + 1) * vocab)).entries())
      gradient[row * vocab + i] = (p - (i === target ? 1 : 0)) * (scales[row] as number);
  }
  return gradient;
}
