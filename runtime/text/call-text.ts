// The text of an answer with tools: applies stop strings, then splits off calls.
import { StopText, type TextPiece, type TokenDecoder } from "./stop-text.ts";
import type { CallDelta, CallReader } from "./tools/format.ts";

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
