// A vocabulary sorted by bytes, with shared prefix lengths: walking it is walking a trie, with dead ends skipped.
import type { Reach } from "./language.ts";

/** Longer tokens are never allowed. */
const tokenBytesMax = 512;
/** Near the bound of a count, only longer tokens need another look; states are told apart as far as the tokens of a part reach. */
const partBytes = [16, 32, tokenBytesMax];

/** Between two looks at the clock: tokens, and steps that are learnt as so many of them. About 0.2 ms. */
const workUnits = 2_048;
const learnUnits = 64;

/** All token texts in one array; that of token i ends at `ends[i]` and is empty for a token without text. */
export interface TokenTexts {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
}

export interface Steps {
  /** The entry at state * 256 + byte is the next state plus 1, negative for none, 0 for unknown. */
  readonly table: Int32Array;
  /** Computes and stores the entry, possibly in a new table, and returns it; 0 where another has the room for it now. */
  learn(state: number, byte: number): number;
}

/** Tokens are in byte order; `common` is the prefix length shared with the predecessor. */
export interface TextOrder {
  readonly ids: Uint32Array;
  readonly common: Uint16Array;
}

/** It takes a few hundred milliseconds for a large vocabulary. */
export function orderOf(texts: TokenTexts): TextOrder {
  const sorted = Array.from(texts.ends, (_, id) => ({ id, text: latin1(textAt(texts, id)) }))
    .filter(({ text }) => text !== "")
    .sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id));
  return {
    ids: Uint32Array.from(sorted, ({ id }) => id),
    common: Uint16Array.from(sorted, ({ text }, i) => commonLength(text, sorted[i - 1]?.text ?? "")),
  };
}

export interface VocabularyPart extends TextOrder {
  /** What its tokens are at most. */
  readonly reach: Reach;
}

export class Vocabulary {
  readonly #texts: TokenTexts;
  readonly parts: readonly VocabularyPart[];
  readonly words: number;

  constructor(texts: TokenTexts, order: TextOrder) {
    this.#texts = texts;
    this.words = Math.ceil(texts.ends.length / 32);
    const ranges = partBytes.map((to, i) => ({ from: (partBytes[i - 1] ?? 0) + 1, to }));
    this.parts = [false, true]
      .flatMap((ends) => ranges.map((range) => partOf(texts, order, { ...range, ends })))
      .filter(({ ids }) => ids.length > 0);
  }

  /** Undefined for a token that is never allowed. */
  textOf(id: number): Uint8Array | undefined {
    return textAt(this.#texts, id);
  }

  /** Begins at a state, by its number. */
  walk(part: VocabularyPart, start: number): Walk {
    return new Walk(this.#texts, part, start);
  }
}

/** A walk over the tokens of a part, which may be left and gone on with. */
export class Walk {
  /** The tokens that lead to a living state, as bits by id. */
  readonly bits: Uint32Array;
  readonly #texts: TokenTexts;
  readonly #part: VocabularyPart;
  readonly #path: Int32Array;
  #next = 0;
  /** Bytes of the last walked token with living states. */
  #alive = 0;
  #work = workUnits;

  constructor(texts: TokenTexts, part: VocabularyPart, start: number) {
    this.bits = new Uint32Array(Math.ceil(texts.ends.length / 32));
    this.#texts = texts;
    this.#part = part;
    this.#path = new Int32Array(part.reach.bytes + 1);
    this.#path[0] = start;
  }

  /** True at its end. */
  run(steps: Steps, goesOn: () => boolean): boolean {
    const { ends } = this.#texts;
    const { ids, common } = this.#part;
    const { bits } = this;
    this.#work = workUnits;
    let i = this.#next;
    for (; i < ids.length && (this.#work > 0 || goesOn()); i++) {
      if (this.#work <= 0) this.#work = workUnits;
      this.#work -= 1;
      if ((common[i] as number) > this.#alive) continue;
      const id = ids[i] as number;
      const from = id === 0 ? 0 : (ends[id - 1] as number);
      const length = (ends[id] as number) - from;
      if (!this.#follow(steps, { from, length, at: common[i] as number })) break;
      if (this.#alive === length) bits[id >>> 5] = (bits[id >>> 5] as number) | (1 << (id & 31));
    }
    this.#next = i;
    return i === ids.length;
  }

  /** False if it has to wait within the token. */
  #follow(steps: Steps, { from, length, at }: { readonly from: number; readonly length: number; readonly at: number }): boolean {
    const { bytes } = this.#texts;
    const path = this.#path;
    let state = path[at] as number;
    this.#alive = at;
    while (this.#alive < length) {
      const byte = bytes[from + this.#alive] as number;
      let next = steps.table[state * 256 + byte] as number;
      if (next === 0) {
        next = steps.learn(state, byte);
        this.#work -= learnUnits;
      }
      if (next <= 0) return next < 0;
      state = next - 1;
      this.#alive += 1;
      path[this.#alive] = state;
    }
    return true;
  }
}

interface Kind {
  readonly from: number;
  readonly to: number;
  readonly ends: boolean;
}

function partOf(texts: TokenTexts, order: TextOrder, { from, to, ends }: Kind): VocabularyPart {
  const ids: number[] = [];
  const common: number[] = [];
  let bytes = 0;
  let shared = 0;
  for (const [i, id] of order.ids.entries()) {
    shared = Math.min(shared, order.common[i] as number);
    const text = textAt(texts, id);
    if (text === undefined || text.length < from || text.length > to || ends !== (text.includes(quote) || text.includes(backslash)))
      continue;
    ids.push(id);
    common.push(shared);
    bytes = Math.max(bytes, text.length);
    shared = Number.POSITIVE_INFINITY;
  }
  return { ids: Uint32Array.from(ids), common: Uint16Array.from(common), reach: { bytes, ends } };
}

const [quote, backslash] = [0x22, 0x5c];

function textAt({ bytes, ends }: TokenTexts, id: number): Uint8Array | undefined {
  const from = id === 0 ? 0 : (ends[id - 1] ?? 0);
  const to = ends[id] ?? 0;
  return to > from && to - from <= tokenBytesMax ? bytes.subarray(from, to) : undefined;
}

/** Bytes as characters of the same order. */
function latin1(bytes: Uint8Array | undefined): string {
  return bytes === undefined ? "" : String.fromCharCode(...bytes);
}

function commonLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a.charCodeAt(length) === b.charCodeAt(length)) length += 1;
  return length;
}
