// Turns token ids into client text; text that could still become a stop string is held back.
import type { CallDelta, CallReader } from "./tools/tool-format.ts";

/** Returns certain text in whole UTF-8 characters, without special tokens. */
export interface TokenDecoder {
  push(id: number): string;
  flush(): string;
}

export interface TextPiece {
  readonly text: string;
  /** The text ended before a stop string; nothing more may be pushed. */
  readonly stopped: boolean;
}

export class StopText {
  readonly #decoder: TokenDecoder;
  readonly #stops: readonly string[];
  #held = "";
  #length = 0;

  constructor(decoder: TokenDecoder, stops: readonly string[]) {
    this.#decoder = decoder;
    this.#stops = stops;
  }

  /** Includes held-back characters. */
  get length(): number {
    return this.#length;
  }

  push(id: number): TextPiece {
    return this.#take(this.#decoder.push(id));
  }

  end(): TextPiece {
    const piece = this.#take(this.#decoder.flush());
    if (piece.stopped) return piece;
    const text = piece.text + this.#held;
    this.#held = "";
    return { text, stopped: false };
  }

  #take(delta: string): TextPiece {
    this.#length += delta.length;
    const text = this.#held + delta;
    const cut = firstStop(text, this.#stops);
    if (cut >= 0) {
      this.#held = "";
      return { text: text.slice(0, cut), stopped: true };
    }
    const keep = heldLength(text, this.#stops);
    this.#held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep), stopped: false };
  }
}

/** Index of the earliest stop string, or -1. */
function firstStop(text: string, stops: readonly string[]): number {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return found.length === 0 ? -1 : Math.min(...found);
}

/** Length of the longest suffix of `text` that begins a stop string. */
export function heldLength(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}

export interface CallTextPiece extends TextPiece {
  readonly calls: readonly CallDelta[];
}

export class CallText {
  readonly #text: StopText;
  readonly #reader: CallReader;
  readonly #marks: ReadonlyMap<number, string>;

  /** `marks`: control tokens that the reader sees as text. */
  constructor(decoder: TokenDecoder, stops: readonly string[], reader: CallReader, marks: ReadonlyMap<number, string> = new Map()) {
    this.#text = new StopText(decoder, stops);
    this.#reader = reader;
    this.#marks = marks;
  }

  /** Includes calls and held-back text. */
  get length(): number {
    return this.#text.length;
  }

  push(id: number): CallTextPiece {
    const mark = this.#marks.get(id);
    if (mark !== undefined) return this.#marked(mark);
    const { text, stopped } = this.#text.push(id);
    return stopped ? this.#last(text, true) : { ...this.#reader.push(text), stopped };
  }

  /** A mark ends the text before it, so no stop string spans it. */
  #marked(mark: string): CallTextPiece {
    const { text, stopped } = this.#text.end();
    return stopped ? this.#last(text, true) : { ...this.#reader.push(text + mark), stopped };
  }

  /** The rest, when the text ended by itself. */
  end(): CallTextPiece {
    const { text, stopped } = this.#text.end();
    return this.#last(text, stopped);
  }

  #last(given: string, stopped: boolean): CallTextPiece {
    const piece = this.#reader.push(given);
    const rest = this.#reader.end();
    return { text: piece.text + rest.text, calls: [...piece.calls, ...rest.calls], stopped };
  }
}
