// A vocabulary sorted by bytes, with shared prefix lengths: walking it is walking a trie, with dead ends skipped.

/** Longer tokens are never allowed. */
const tokenBytesMax = 512;
/** Near the bound of a count, only longer tokens need another look. */
const shortBytes = 16;

/** All token texts in one array; that of token i ends at `ends[i]` and is empty for a token without text. */
export interface TokenTexts {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
}

export interface Steps {
  /** The entry at state * 256 + byte is the next state plus 1, negative for none, 0 for unknown. */
  readonly table: Int32Array;
  /** Computes and stores the entry, possibly in a new table, and returns it. */
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
  readonly bytesMax: number;
}

export class Vocabulary {
  readonly #texts: TokenTexts;
  readonly parts: readonly VocabularyPart[];
  readonly words: number;

  constructor(texts: TokenTexts, order: TextOrder) {
    this.#texts = texts;
    this.words = Math.ceil(texts.ends.length / 32);
    this.parts = [partOf(texts, order, 1, shortBytes), partOf(texts, order, shortBytes + 1, tokenBytesMax)].filter(
      ({ ids }) => ids.length > 0,
    );
  }

  /** Undefined for a token that is never allowed. */
  textOf(id: number): Uint8Array | undefined {
    return textAt(this.#texts, id);
  }

  /** Bits by id of the tokens that lead from `start` to a living state. */
  allowed({ ids, common, bytesMax }: VocabularyPart, start: number, steps: Steps): Uint32Array {
    const { bytes, ends } = this.#texts;
    const bits = new Uint32Array(this.words);
    const path = new Int32Array(bytesMax + 1);
    path[0] = start;
    let alive = 0; // bytes of the last walked token with living states
    for (let i = 0; i < ids.length; i++) {
      let at = common[i] as number;
      if (at > alive) continue;
      const id = ids[i] as number;
      const from = id === 0 ? 0 : (ends[id - 1] as number);
      const length = (ends[id] as number) - from;
      let state = path[at] as number;
      while (at < length) {
        const byte = bytes[from + at] as number;
        let next = steps.table[state * 256 + byte] as number;
        if (next === 0) next = steps.learn(state, byte);
        if (next < 0) break;
        state = next - 1;
        path[++at] = state;
      }
      alive = at;
      if (at === length) bits[id >>> 5] = (bits[id >>> 5] as number) | (1 << (id & 31));
    }
    return bits;
  }
}

function partOf({ ends }: TokenTexts, order: TextOrder, from: number, to: number): VocabularyPart {
  const ids: number[] = [];
  const common: number[] = [];
  let bytesMax = 0;
  let shared = 0;
  for (const [i, id] of order.ids.entries()) {
    shared = Math.min(shared, order.common[i] as number);
    const length = (ends[id] as number) - (id === 0 ? 0 : (ends[id - 1] as number));
    if (length < from || length > to) continue;
    ids.push(id);
    common.push(shared);
    bytesMax = Math.max(bytesMax, length);
    shared = Number.POSITIVE_INFINITY;
  }
  return { ids: Uint32Array.from(ids), common: Uint16Array.from(common), bytesMax };
}

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
