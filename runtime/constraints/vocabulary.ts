// A vocabulary in the order of its tokens' bytes, with the length that each has in common with the one before: going through it in this
// order is going through the tree of all tokens, and what begins like a dead end is skipped.

/** Bytes of a token; longer ones are never allowed, and a token's text is a word or a run of spaces. */
const tokenBytesMax = 512;
/** Bytes of the tokens of the first part. Nearly all have no more, and near the bound of a count only those that are longer than what is
 *  left of it need be looked at anew. */
const shortBytes = 16;

/** The texts of tokens, one behind the other; that of token i ends at `ends[i]`, and is empty for one that shows as nothing. */
export interface TokenTexts {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
}

/** An automaton's steps by number of state and byte. */
export interface Steps {
  /** At state * 256 + byte the number of the next state plus 1, below 0 where there is none, 0 where that is not yet known. */
  readonly table: Int32Array;
  /** Finds out, fills the table, which may be another one afterwards, and returns the entry. */
  learn(state: number, byte: number): number;
}

/** Tokens that have a text in the order of their bytes, and how many bytes each shares with the one before. */
export interface TextOrder {
  readonly ids: Uint32Array;
  readonly common: Uint16Array;
}

/** Takes a few hundred milliseconds for a large vocabulary. */
export function orderOf(texts: TokenTexts): TextOrder {
  const sorted = Array.from(texts.ends, (_, id) => ({ id, text: latin1(textAt(texts, id)) }))
    .filter(({ text }) => text !== "")
    .sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id));
  return {
    ids: Uint32Array.from(sorted, ({ id }) => id),
    common: Uint16Array.from(sorted, ({ text }, i) => commonLength(text, sorted[i - 1]?.text ?? "")),
  };
}

/** Tokens of a vocabulary in order, by the length of their texts. */
export interface VocabularyPart extends TextOrder {
  /** Bytes of the longest one. */
  readonly bytesMax: number;
}

export class Vocabulary {
  readonly #texts: TokenTexts;
  /** Short tokens and long ones, those of them that there are. */
  readonly parts: readonly VocabularyPart[];
  /** Numbers of 32 bits in a set of tokens. */
  readonly words: number;

  constructor(texts: TokenTexts, order: TextOrder) {
    this.#texts = texts;
    this.words = Math.ceil(texts.ends.length / 32);
    this.parts = [partOf(texts, order, 1, shortBytes), partOf(texts, order, shortBytes + 1, tokenBytesMax)].filter(
      ({ ids }) => ids.length > 0,
    );
  }

  /** The text of a token that may be allowed at all. */
  textOf(id: number): Uint8Array | undefined {
    return textAt(this.#texts, id);
  }

  /** The tokens of a part whose text leads from `start` to a living state, as bits by id. */
  allowed({ ids, common, bytesMax }: VocabularyPart, start: number, steps: Steps): Uint32Array {
    const { bytes, ends } = this.#texts;
    const bits = new Uint32Array(this.words);
    const path = new Int32Array(bytesMax + 1);
    path[0] = start;
    let alive = 0; // bytes of the last token that was walked whose states live
    for (let i = 0; i < ids.length; i++) {
      let at = common[i] as number;
      if (at > alive) continue; // it shares the byte at which that one died
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

/** The tokens of `from` to `to` bytes. */
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
