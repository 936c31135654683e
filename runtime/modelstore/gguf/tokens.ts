// Tokenizer metadata of a GGUF, as the kinds of tokenizers read it.
import { AppError } from "../../../crds/common.ts";
import type { GgufValue } from "../../weights/gguf-header.ts";
import { ggufInteger } from "./metadata.ts";

type Metadata = ReadonlyMap<string, GgufValue>;

export const tokensKey = "tokenizer.ggml.tokens";

/** A kind's parts of tokenizer.json. */
export interface TokenizerParts {
  readonly normalizer: unknown;
  readonly preTokenizer: unknown;
  readonly decoder: unknown;
  /** Default for metadata that do not say it. */
  readonly beginsWithBos: boolean;
  /** Fields of the BPE model besides its vocabulary. */
  readonly model: Readonly<Record<string, unknown>>;
}

export class GgufTokens {
  readonly #metadata: Metadata;
  readonly #where: string;
  readonly #types: GgufValue | undefined;

  constructor(metadata: Metadata, where: string) {
    this.#metadata = metadata;
    this.#where = where;
    this.#types = metadata.get("tokenizer.ggml.token_type");
  }

  text(key: string): string | undefined {
    const value = this.#metadata.get(key);
    return value === undefined ? undefined : String(value);
  }

  flag(key: string): boolean | undefined {
    const value = this.#metadata.get(key);
    return typeof value === "boolean" ? value : undefined;
  }

  texts(key: string): readonly string[] {
    return this.#list(key, "texts", (item) => typeof item === "string") as readonly string[];
  }

  numbers(key: string): readonly number[] {
    return this.#list(key, "numbers", (item) => typeof item === "number" && !Number.isNaN(item)) as readonly number[];
  }

  #list(key: string, kind: string, fits: (item: GgufValue) => boolean): readonly GgufValue[] {
    const value = this.#metadata.get(key);
    if (Array.isArray(value) && value.every(fits)) return value as readonly GgufValue[];
    throw this.broken(`GGUF metadata "${key}" is no list of ${kind}, so no tokenizer can be made`);
  }

  typeOf(id: number): unknown {
    return Array.isArray(this.#types) ? this.#types[id] : undefined;
  }

  /** The token whose id a key holds. */
  named(key: string): string | undefined {
    const id = ggufInteger(this.#metadata, key);
    if (id === undefined) return undefined;
    const tokens = this.texts(tokensKey);
    const token = tokens[id];
    if (token === undefined) throw this.broken(`GGUF metadata "${key}" = ${id} is outside the vocabulary of ${tokens.length}`);
    return token;
  }

  broken(what: string): AppError {
    return new AppError(`${this.#where}: ${what}`, { code: "BadTokenizer" });
  }

  unsupported(what: string): AppError {
    return new AppError(`${this.#where}: ${what}; import the model from its Hugging Face folder, which has tokenizer.json`, {
      code: "UnsupportedTokenizer",
    });
  }
}
