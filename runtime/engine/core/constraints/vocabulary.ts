// A vocabulary in the order of its tokens' bytes, with the length that each has in common with the one before: going through it in this
// order is going through the tree of all tokens, and what begins like a dead end is skipped. Pure.

/** Bytes of a token; longer ones are never allowed, and a token's text is a word or a run of spaces. */
const tokenBytesMax = 512;

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

export class Vocabulary {
  readonly #texts: TokenTexts;
  readonly #order: TextOrder;

  constructor(texts: TokenTexts, order: TextOrder) {
    this.#texts = texts;
    this.#order = order;
  }

  /** The text of a token that may be allowed at all. One without a text would change no state, and could come for ever. */
  textOf(id: number): Uint8Array | undefined {
    return textAt(this.#texts, id);
  }

  /** The tokens whose text leads from `start` to a living state, as bits by id. */
  allowed(start: number, steps: Steps): Uint32Array {
    const { bytes, ends } = this.#texts;
    const { ids, common } = this.#order;
    const bits = new Uint32Array(Math.ceil(ends.length / 32));
    const path = new Int32Array(tokenBytesMax + 1);
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
