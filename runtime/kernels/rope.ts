// Rotary position tables and the rotation of one head, in halves (Llama, Mixtral) or neighbouring pairs (DeepSeek).
import type { Rope } from "./tensor.ts";

export interface RopeTables {
  readonly rope: Rope;
  /** [positions, pairs] */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** Unscaled radians per position of each pair, [headDim / 2]. */
export function inverseFrequencies(headDim: number, base: number): Float32Array {
  const round = Math.fround;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / round(round(base) ** round((2 * i) / headDim)));
}

/** The unscaled rotation of whole heads. */
export function plainRope(headDim: number, base: number): Rope {
  return { frequencies: [...inverseFrequencies(headDim, base)], factor: 1, from: 0, interleaved: false };
}

export function ropeTables(positions: number, rope: Rope): RopeTables {
  const pairs = rope.frequencies.length;
  const cos = new Float32Array(positions * pairs);
  const sin = new Float32Array(positions * pairs);
  for (let p = 0; p < positions; p++) {
    for (const [i, frequency] of rope.frequencies.entries()) {
      const angle = Math.fround(p * frequency);
      cos[p * pairs + i] = Math.fround(Math.cos(angle)) * rope.factor;
      sin[p * pairs + i] = Math.fround(Math.sin(angle)) * rope.factor;
    }
  }
  return { rope, cos, sin };
}

interface Head {
  readonly of: Float32Array;
  readonly at: number;
}

/** Writes a head of `width` values, rotated to `position`. `direction` = -1 rotates back, for the gradient. */
export function rotate(
  { rope, cos, sin }: RopeTables,
  { position, width, direction = 1 }: { readonly position: number; readonly width: number; readonly direction?: 1 | -1 },
  source: Head,
  target: Head,
): void {
  const pairs = rope.frequencies.length;
  const turned = rope.from + 2 * pairs;
  for (let d = 0; d < width; d++) if (d < rope.from || d >= turned) target.of[target.at + d] = source.of[source.at + d] as number;
  for (let i = 0; i < pairs; i++) {
    const first = rope.from + (rope.interleaved ? 2 * i : i);
    const second = first + (rope.interleaved ? 1 : pairs);
    const c = cos[position * pairs + i] as number;
    const s = direction * (sin[position * pairs + i] as number);
    const a = source.of[source.at + first] as number;
    const b = source.of[source.at + second] as number;
    target.of[target.at + first] = a * c - b * s;
    target.of[target.at + second] = b * c + a * s;
  }
}
