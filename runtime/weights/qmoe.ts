// Ternary weights in a dictionary code (QMoE): 0.81 bits a value in a store, expanded to ggml's tq1_0 where they are computed.
import { AppError } from "../../crds/common.ts";
import { halfAt } from "../kernels/ggml/half-floats.ts";
import { ternaryPlaces, tq1_0 } from "../kernels/ggml/ternary.ts";
import { f16Bits } from "./floats.ts";

const pairsMax = 14;
/** Values of an entry that are not zero, at most. */
const othersMax = 3;
/** About -log2 of a value's probability where 88.5% are zeros. A store's bytes hang on them. */
const cost = { zero: 10, other: 234 } as const;
const entries = 65_536;
/** The entry without values, which has no codeword. */
const root = entries;

interface Dictionary {
  /** By codeword: pairs of values in 4 bits, how many values are not zero in 2, and the place of each in 5 with its sign in 1. */
  readonly decoded: Uint32Array;
  /** The entry that is longer by a pair, by entry and pair, or -1. */
  readonly longer: Int32Array;
}

let made: Dictionary | undefined;

/** The likeliest sequences of pairs. With an entry, all that it begins with are entries, so that any sequence has a code. */
export function qmoeDictionary(): Dictionary {
  made ??= makeDictionary();
  return made;
}

function makeDictionary(): Dictionary {
  const [decoded, longer] = [new Uint32Array(entries + 1), new Int32Array(9 * (entries + 1)).fill(-1)];
  const costOf = ([pairs, others]: readonly [number, number]): number => cost.zero * (2 * pairs - others) + cost.other * others;
  const classes = Array.from(
    { length: (othersMax + 1) * pairsMax },
    (_, i) => [1 + Math.floor(i / (othersMax + 1)), i % (othersMax + 1)] as const,
  )
    .filter(([pairs, others]) => others <= 2 * pairs)
    .sort((a, b) => costOf(a) - costOf(b));
  const byClass: number[][][] = Array.from({ length: pairsMax + 1 }, () => []);
  (byClass[0] as number[][])[0] = [root];
  let next = 0;
  for (const [pairs, others] of classes) {
    const own: number[] = [];
    (byClass[pairs] as number[][])[others] = own;
    for (let pair = 0; pair < 9; pair++) {
      const values = [Math.floor(pair / 3), pair % 3];
      for (const shorter of byClass[pairs - 1]?.[others - values.filter((value) => value > 0).length] ?? []) {
        if (next === entries) return { decoded, longer };
        decoded[next] = lengthened(decoded[shorter] as number, values);
        longer[9 * shorter + pair] = next;
        own.push(next++);
      }
    }
  }
  return { decoded, longer };
}

function lengthened(word: number, values: readonly number[]): number {
  const pairs = word & 15;
  let [others, rest] = [(word >> 4) & 3, word >> 6];
  for (const [i, value] of values.entries()) {
    if (value === 0) continue;
    rest |= (((2 * pairs + i) << 1) | (value - 1)) << (6 * others);
    others += 1;
  }
  return (pairs + 1) | (others << 4) | (rest << 6);
}

/** Codes an even number of values, 0, 1 and 2 for -1: the longest entry each time. The number of codewords, or -1 where `out` is too short. */
export function encodeTernary(values: Uint8Array, out: Uint16Array): number {
  const { longer } = qmoeDictionary();
  let [count, entry] = [0, root];
  for (let i = 0; i < values.length; i += 2) {
    const pair = 3 * (values[i] as number) + (values[i + 1] as number);
    const next = longer[9 * entry + pair] as number;
    if (next >= 0) {
      entry = next;
      continue;
    }
    if (count === out.length) return -1;
    out[count++] = entry;
    entry = longer[9 * root + pair] as number;
  }
  if (entry === root) return count;
  if (count === out.length) return -1;
  out[count] = entry;
  return count + 1;
}

const blockValues = 256;
const codewords = 12;
/** Codewords, and an f16 scale. */
const blockBytes = 2 * codewords + 2;
const halfMax = 65_504;
/** About as many values of a block are not zero. */
const othersUsual = 27;

/** Rounds a block: the values that gain most by being no zeros, as many as their code has room for, under their mean magnitude. */
class BlockRounding {
  readonly #symbols = new Uint8Array(blockValues);
  readonly #codes = new Uint16Array(codewords);
  readonly #gains = new Float64Array(blockValues);
  readonly #order = new Uint8Array(blockValues);
  readonly #data: Float32Array;
  readonly #importance: Float32Array;

  /** `importance`: of each column. */
  constructor(data: Float32Array, importance: Float32Array = Float32Array.of(1)) {
    this.#data = data;
    this.#importance = importance;
  }

  encode(from: number, out: Uint8Array, at: number): void {
    let squares = 0;
    for (let i = 0; i < blockValues; i++) squares += (this.#data[from + i] as number) ** 2;
    if (!Number.isFinite(squares)) throw new AppError("a matrix has values that are not finite", { code: "UnusableWeight" });
    const first = this.#byGain(from, 2 * Math.sqrt(squares / blockValues));
    const guess = this.#scaleOf(from, first.subarray(0, othersUsual));
    const chosen = this.#fitting(from, this.#byGain(from, guess));
    for (const [i, code] of this.#codes.entries()) writeWord(out, at + 2 * i, code);
    writeWord(out, at + 2 * codewords, f16Bits(Math.min(halfMax, this.#scaleOf(from, chosen))));
  }

  #weightOf(place: number): number {
    return this.#importance[place % this.#importance.length] as number;
  }

  /** Values that lose less as `scale` than as zero, the greatest gain first. */
  #byGain(from: number, scale: number): Uint8Array {
    let count = 0;
    for (let i = 0; i < blockValues; i++) {
      const gain = this.#weightOf(from + i) * (2 * Math.abs(this.#data[from + i] as number) - scale);
      this.#gains[i] = gain;
      if (gain > 0) this.#order[count++] = i;
    }
    return this.#order.subarray(0, count).sort((a, b) => (this.#gains[b] as number) - (this.#gains[a] as number) || a - b);
  }

  #scaleOf(from: number, places: Uint8Array): number {
    let [sum, weights] = [0, 0];
    for (const place of places) {
      const weight = this.#weightOf(from + place);
      sum += weight * Math.abs(this.#data[from + place] as number);
      weights += weight;
    }
    return weights === 0 ? 0 : sum / weights;
  }

  /** The code of the most of them that fit stays in `#codes`. */
  #fitting(from: number, places: Uint8Array): Uint8Array {
    let [fits, below] = [0, places.length + 1];
    for (let count = places.length; below - fits > 1; count = (fits + below) >> 1) {
      if (this.#coded(from, places.subarray(0, count))) fits = count;
      else below = count;
    }
    const chosen = places.subarray(0, fits);
    this.#coded(from, chosen);
    return chosen;
  }

  #coded(from: number, places: Uint8Array): boolean {
    this.#symbols.fill(0);
    for (const place of places) this.#symbols[place] = (this.#data[from + place] as number) > 0 ? 1 : 2;
    const count = encodeTernary(this.#symbols, this.#codes);
    if (count >= 0) this.#codes.fill(0, count);
    return count >= 0;
  }
}

function writeWord(out: Uint8Array, at: number, word: number): void {
  out[at] = word & 255;
  out[at + 1] = word >> 8;
}

/** Rounds rows of whole blocks, which changes nothing of what came out of such rounding. */
function encode(data: Float32Array, importance?: Float32Array): Uint8Array {
  const out = new Uint8Array((data.length / blockValues) * blockBytes);
  const rounding = new BlockRounding(data, importance);
  for (let from = 0, at = 0; from < data.length; from += blockValues, at += blockBytes) rounding.encode(from, out, at);
  return out;
}

/** By value of a block of tq1_0: its byte, and what one more is worth in the number that the byte stands for. */
const [byteOf, step] = [Uint8Array.from(ternaryPlaces, ({ byte }) => byte), Int16Array.from(ternaryPlaces, ({ worth }) => worth)];
const digitBytes = 52;
/** The numbers of a block of zeros. */
const zeros = new Uint8Array(digitBytes);
for (const { byte, worth } of ternaryPlaces) zeros[byte] = (zeros[byte] as number) + worth;
/** A number of five digits of base three as tq1_0 has it, a part of 256. */
const asByte = Uint8Array.from({ length: 243 }, (_, number) => Math.ceil((number * 256) / 243));

const corrupt = (): AppError => new AppError("ternary weights have a code that no rounding makes", { code: "CorruptShard" });

/** Adds a block's values to the numbers of zeros. Throws AppError `CorruptShard` for codes of too many or too few values. */
function addBlock(bytes: Uint8Array, from: number, numbers: Uint8Array): void {
  const { decoded } = qmoeDictionary();
  let value = 0;
  for (let at = from; at < from + 2 * codewords; at += 2) {
    const code = (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
    if (value === blockValues && code === 0) continue; // unused
    const word = decoded[code] as number;
    if (value + 2 * (word & 15) > blockValues) throw corrupt();
    for (let others = (word >> 4) & 3, rest = word >> 6; others > 0; others--, rest >>= 6) {
      const place = value + ((rest >> 1) & 31);
      const worth = step[place] as number;
      numbers[byteOf[place] as number] = (numbers[byteOf[place] as number] as number) + (rest & 1 ? -worth : worth);
    }
    value += 2 * (word & 15);
  }
  if (value !== blockValues) throw corrupt();
}

/** Whole blocks become blocks of tq1_0 with the same values. */
function expand(bytes: Uint8Array): Uint8Array {
  const blocks = Math.floor(bytes.length / blockBytes);
  const out = new Uint8Array(blocks * tq1_0.bytes);
  const numbers = new Uint8Array(digitBytes);
  for (let block = 0, at = 0; block < blocks; block++, at += tq1_0.bytes) {
    numbers.set(zeros);
    addBlock(bytes, block * blockBytes, numbers);
    for (let i = 0; i < digitBytes; i++) out[at + i] = asByte[numbers[i] as number] as number;
    const scale = (block + 1) * blockBytes - 2;
    if (!(Math.abs(halfAt(bytes, scale)) <= halfMax)) throw corrupt();
    out[at + digitBytes] = bytes[scale] as number;
    out[at + digitBytes + 1] = bytes[scale + 1] as number;
  }
  return out;
}

/** `type`: none in GGUF files. */
export const qmoe = { type: -1, values: blockValues, bytes: blockBytes, computed: "tq1_0", encode, expand } as const;
