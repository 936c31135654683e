// Rotary position tables and the rotation of one head (rotate-half, as Hugging Face's Llama and Mixtral). Pure.
// Tables are rounded as transformers rounds them (each step to the inverse frequency, and the angle, in f32), and every backend uses
// these tables: an inverse frequency that is off by one unit in the last place turns a head at position 3,000 wrongly by 1e-4.

export interface RopeTables {
  readonly headDim: number;
  /** [positions, headDim / 2] */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** Radians that each pair of a head turns by from one position to the next, [headDim / 2]. */
export function inverseFrequencies(headDim: number, base: number): Float32Array {
  const round = Math.fround;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / round(round(base) ** round((2 * i) / headDim)));
}

export function ropeTables(positions: number, headDim: number, base: number): RopeTables {
  const half = headDim / 2;
  const inverse = inverseFrequencies(headDim, base);
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(p * (inverse[i] as number));
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return { headDim, cos, sin };
}

/** Writes the head at x[from .. from + headDim), turned to `position`, to out[to ...). `turn` = -1 turns back (the gradient). */
export function rotate(
  tables: RopeTables,
  { position, turn = 1 }: { readonly position: number; readonly turn?: 1 | -1 },
  source: { readonly x: Float32Array; readonly from: number },
  target: { readonly out: Float32Array; readonly to: number },
): void {
  const half = tables.headDim / 2;
  for (let i = 0; i < half; i++) {
    const c = tables.cos[position * half + i] as number;
    const s = turn * (tables.sin[position * half + i] as number);
    const a = source.x[source.from + i] as number;
    const b = source.x[source.from + half + i] as number;
    target.out[target.to + i] = a * c - b * s;
    target.out[target.to + half + i] = b * c + a * s;
  }
}
