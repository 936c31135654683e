// ggml's smallest types, of 1.6 to 3.4 bits per value: groups of four or eight values come from a grid (grids.ts), with signs and nested
// scales.
import { type BlockFormat, halfScales } from "./format.ts";
import { gridValues, iq1Grid, iq2sGrid, iq2xsGrid, iq2xxsGrid, iq3sGrid, iq3xxsGrid } from "./grids.ts";
import { halfAt, halfToFloat } from "./half-floats.ts";

const values = 256;
const share = 32;
const eights = 4;

const grids = new Map<typeof iq1Grid, Float32Array>();
function valuesOf(grid: typeof iq1Grid): Float32Array {
  const known = grids.get(grid) ?? gridValues(grid);
  grids.set(grid, known);
  return known;
}

const wordAt = (bytes: Uint8Array, at: number): number => (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
const longAt = (bytes: Uint8Array, at: number): number => (wordAt(bytes, at) | (wordAt(bytes, at + 2) << 16)) >>> 0;

/** Eight signs from seven bits; their number is even. */
function evenSigns(seven: number): number {
  let odd = seven;
  odd ^= odd >> 4;
  odd ^= odd >> 2;
  odd ^= odd >> 1;
  return seven | ((odd & 1) << 7);
}

interface Eight {
  readonly out: Float32Array;
  readonly to: number;
  readonly scale: number;
  readonly signs: number;
}

/** `first` and `second`: grid offsets of four values each. */
function signed(grid: Float32Array, [first, second]: readonly [number, number], { out, to, scale, signs }: Eight): void {
  for (let i = 0; i < 8; i++) {
    const value = scale * (grid[i < 4 ? first + i : second + i - 4] as number);
    out[to + i] = (signs >> i) & 1 ? -value : value;
  }
}

const together = (index: number): readonly [number, number] => [8 * index, 8 * index + 4];

/** 8-bit index, 7 bits of signs, 4-bit scale per 32 values. */
export const iq2_xxs: BlockFormat = {
  type: 16,
  values,
  bytes: 66,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const grid = valuesOf(iq2xxsGrid);
    const d = halfAt(bytes, at);
    for (let part = 0; part < values / share; part++) {
      const from = at + 2 + 8 * part;
      const signs = longAt(bytes, from + 4);
      const scale = d * (0.5 + (signs >>> 28)) * 0.25;
      for (let i = 0; i < eights; i++) {
        const eight = { out, to: to + share * part + 8 * i, scale, signs: evenSigns((signs >>> (7 * i)) & 127) };
        signed(grid, together(bytes[from + i] as number), eight);
      }
    }
  },
};

/** 9-bit index, 7 bits of signs, 4-bit scale per 16 values. */
export const iq2_xs: BlockFormat = {
  type: 17,
  values,
  bytes: 74,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const grid = valuesOf(iq2xsGrid);
    const d = halfAt(bytes, at);
    for (let i = 0; i < values / 8; i++) {
      const word = wordAt(bytes, at + 2 + 2 * i);
      const four = ((bytes[at + 66 + (i >> 2)] as number) >> (4 * ((i >> 1) & 1))) & 15;
      signed(grid, together(word & 511), { out, to: to + 8 * i, scale: d * (0.5 + four) * 0.25, signs: evenSigns(word >> 9) });
    }
  },
};

/** 10-bit index in two parts, 8 signs. */
export const iq2_s: BlockFormat = {
  type: 22,
  values,
  bytes: 82,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const grid = valuesOf(iq2sGrid);
    const d = halfAt(bytes, at);
    for (let i = 0; i < values / 8; i++) {
      const high = ((bytes[at + 66 + (i >> 2)] as number) >> (2 * (i & 3))) & 3;
      const four = ((bytes[at + 74 + (i >> 2)] as number) >> (4 * ((i >> 1) & 1))) & 15;
      const eight = { out, to: to + 8 * i, scale: d * (0.5 + four) * 0.25, signs: bytes[at + 34 + i] as number };
      signed(grid, together((bytes[at + 2 + i] as number) | (high << 8)), eight);
    }
  },
};

/** 8-bit index per four values, 7 bits of signs per eight. */
export const iq3_xxs: BlockFormat = {
  type: 18,
  values,
  bytes: 98,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const grid = valuesOf(iq3xxsGrid);
    const d = halfAt(bytes, at);
    for (let i = 0; i < values / 8; i++) {
      const word = longAt(bytes, at + 66 + 4 * (i >> 2));
      const signs = evenSigns((word >>> (7 * (i & 3))) & 127);
      const index = (second: number): number => 4 * (bytes[at + 2 + 2 * i + second] as number);
      signed(grid, [index(0), index(1)], { out, to: to + 8 * i, scale: d * (0.5 + (word >>> 28)) * 0.5, signs });
    }
  },
};

/** 9-bit index per four values in two parts, 8 signs. */
export const iq3_s: BlockFormat = {
  type: 21,
  values,
  bytes: 110,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const grid = valuesOf(iq3sGrid);
    const d = halfAt(bytes, at);
    for (let i = 0; i < values / 8; i++) {
      const part = i >> 2;
      const four = ((bytes[at + 106 + (part >> 1)] as number) >> (4 * (part & 1))) & 15;
      const high = (bytes[at + 66 + part] as number) >> (2 * (i & 3));
      const index = (second: number): number => 4 * ((bytes[at + 2 + 2 * i + second] as number) | (((high >> second) & 1) << 8));
      signed(grid, [index(0), index(1)], { out, to: to + 8 * i, scale: d * (1 + 2 * four), signs: bytes[at + 74 + i] as number });
    }
  },
};

function shifted(index: number, delta: number, { out, to, scale }: Omit<Eight, "signs">): void {
  const grid = valuesOf(iq1Grid);
  for (let i = 0; i < 8; i++) out[to + i] = scale * ((grid[8 * index + i] as number) + delta);
}
const eighth = (down: number): number => (down ? -0.125 : 0.125);

/** 11-bit index; three of its bits share a word per 32 values with the scale and the shift. */
export const iq1_s: BlockFormat = {
  type: 19,
  values,
  bytes: 50,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    for (let i = 0; i < values / 8; i++) {
      const word = wordAt(bytes, at + 34 + 2 * (i >> 2));
      const index = (bytes[at + 2 + i] as number) | (((word >> (3 * (i & 3))) & 7) << 8);
      shifted(index, eighth(word & 0x8000), { out, to: to + 8 * i, scale: d * (2 * ((word >> 12) & 7) + 1) });
    }
  },
};

/** 11-bit index and shift, 3-bit scale per 16 values. */
export const iq1_m: BlockFormat = {
  type: 29,
  values,
  bytes: 56,
  scales: { at: [54], mask: 0x7000, most: 0x5000 },
  dequantize(bytes, at, out, to) {
    const word = (i: number): number => wordAt(bytes, at + 48 + 2 * i);
    const d = halfToFloat([0, 1, 2, 3].reduce((bits, i) => bits | ((word(i) >> 12) << (4 * i)), 0));
    for (let i = 0; i < values / 8; i++) {
      const four = ((bytes[at + 32 + (i >> 1)] as number) >> (4 * (i & 1))) & 15;
      const three = (word(i >> 3) >> (3 * ((i >> 1) & 3))) & 7;
      const index = (bytes[at + i] as number) | ((four & 7) << 8);
      shifted(index, eighth(four & 8), { out, to: to + 8 * i, scale: d * (2 * three + 1) });
    }
  },
};
