// Streaming detokenizers: token ids in, whole UTF-8 characters out. Byte-level vocabularies decode exactly; others compare decodings of a
// short window.
import type { TokenDecoder } from "./stop-text.ts";

/** A character has at most 4 bytes. */
const windowTokensMax = 8;
const replacement = "\uFFFD";

/** GPT-2's alphabet: every byte as one printable character. */
function byteAlphabet(): ReadonlyMap<string, number> {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  const alphabet = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) alphabet.set(String.fromCharCode(printable(byte) ? byte : next++), byte);
  return alphabet;
}

const alphabet = byteAlphabet();

/** Text outside the alphabet stands for itself. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = alphabet.get(character);
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

const byteToken = /^<0x([0-9A-F]{2})>$/;

/** SentencePiece: "▁" is a space, "<0x0A>" a byte. */
export function sentencePieceBytes(token: string): Uint8Array {
  const byte = byteToken.exec(token)?.[1];
  return byte === undefined ? new TextEncoder().encode(token.replaceAll("\u2581", " ")) : Uint8Array.of(Number.parseInt(byte, 16));
}

export class ByteLevelDecoder implements TokenDecoder {
  readonly #bytesOf: (id: number) => Uint8Array | undefined;
  readonly #text = new TextDecoder("utf-8", { ignoreBOM: true });

  /** `bytesOf` returns undefined for special and unknown tokens. */
  constructor(bytesOf: (id: number) => Uint8Array | undefined) {
    this.#bytesOf = bytesOf;
  }

  push(id: number): string {
    const bytes = this.#bytesOf(id);
    return bytes ? this.#text.decode(bytes, { stream: true }) : "";
  }

  flush(): string {
    return this.#text.decode();
  }
}

export class WindowDecoder implements TokenDecoder {
  readonly #decode: (ids: readonly number[]) => string;
  #window: number[] = [];
  #given = 0; // already emitted tokens at the window's start

  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode;
  }

  push(id: number): string {
    this.#window.push(id);
    const waiting = this.#window.length - this.#given;
    const text = this.#fresh();
    if (waiting < windowTokensMax && (text === "" || text.endsWith(replacement))) return "";
    if (text === "") {
      this.#window.length = this.#given; // the text before special tokens still counts
      return "";
    }
    this.#window = this.#window.slice(this.#given);
    this.#given = this.#window.length;
    return text;
  }

  flush(): string {
    const text = this.#fresh();
    this.#window = [];
    this.#given = 0;
    return text;
  }

  /** Compares two decodings, because spaces depend on the token before. */
  #fresh(): string {
    const before = this.#given === 0 ? "" : this.#decode(this.#window.slice(0, this.#given));
    return this.#window.length === 0 ? "" : this.#decode(this.#window).slice(before.length);
  }
}
