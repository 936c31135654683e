// The text of an answer that may call tools: stop strings first, then calls apart from what is for the user. Pure; one per answer.
import { StopText, type TextPiece, type TokenDecoder } from "./stop-text.ts";
import type { CallDelta, CallReader } from "./tools/format.ts";

export interface CallTextPiece extends TextPiece {
  readonly calls: readonly CallDelta[];
}

export class CallText {
  readonly #text: StopText;
  readonly #reader: CallReader;

  constructor(decoder: TokenDecoder, stops: readonly string[], reader: CallReader) {
    this.#text = new StopText(decoder, stops);
    this.#reader = reader;
  }

  /** Characters so far, those of calls and those held back included. */
  get length(): number {
    return this.#text.length;
  }

  push(id: number): CallTextPiece {
    const { text, stopped } = this.#text.push(id);
    return stopped ? this.#last(text, true) : { ...this.#reader.push(text), stopped };
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
