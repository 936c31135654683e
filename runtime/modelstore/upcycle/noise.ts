// Counter-based noise: value i depends only on (seed, layer, expert, matrix, i), so every machine and order gives the same bits. It uses
// integers and IEEE square roots only, since logarithms differ between platforms.

const golden = 0x9e3779b9;
const halfRange = 32768; // noise is one of 65536 levels, symmetric around zero
const levelSpread = Math.sqrt((65536 ** 2 - 1) / 12); // standard deviation of those levels, in levels

/** MurmurHash3's finaliser. */
function mix32(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

export function keyOf(...parts: readonly number[]): number {
  return parts.reduce((key, part) => mix32(Math.imul(key, 31) + part + golden), 0x5bd1e995);
}

/** Returns 32 random bits as [0, 1). */
export function uniform(key: number, counter: number): number {
  return mix32(key ^ mix32(Math.imul(counter, golden) + 1)) / 2 ** 32;
}

export function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) * (values[i] as number);
  return Math.sqrt(sum / values.length);
}

/** Adds noise of `relative` times the values' RMS; 0 copies. */
export function withNoise(values: Float32Array, relative: number, key: number): Float32Array {
  const out = values.slice();
  if (relative === 0) return out;
  const scale = (relative * rootMeanSquare(values)) / levelSpread;
  for (let i = 0, counter = 0; i < out.length; i += 2, counter++) {
    const bits = mix32(key + Math.imul(counter, golden));
    out[i] = (values[i] as number) + ((bits & 0xffff) - halfRange + 0.5) * scale;
    if (i + 1 < out.length) out[i + 1] = (values[i + 1] as number) + ((bits >>> 16) - halfRange + 0.5) * scale;
  }
  return out;
}
