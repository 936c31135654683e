// A language over a vocabulary's tokens: the allowed ones in a state and the state after one. Steps over bytes are cached.
import { AppError } from "../../crds/common.ts";
import type { Language } from "./language.ts";
import type { Steps, Vocabulary, VocabularyPart } from "./vocabulary.ts";

/** The table of steps has 1 KiB per state; a walk that finds more than this starts it anew. */
const statesMax = 4_096;
/** A walk over more states is given up; no properly bounded language needs that many for one token. */
const walkStatesMax = 65_536;
/** Cached sets of allowed tokens, one bit per token: 25 KB each for 200,000 tokens. */
const setsMax = 256;
const bytes = 256;
const dead = -1;

export class Automaton implements Steps {
  readonly language: Language;
  readonly #vocabulary: Vocabulary;
  readonly #sets = new Map<string, Uint32Array>();
  readonly #numbers = new Map<string, number>();
  readonly #states: string[] = [];
  /** See Steps. */
  table = new Int32Array(64 * bytes);

  constructor(language: Language, vocabulary: Vocabulary) {
    this.language = language;
    this.#vocabulary = vocabulary;
  }

  /** Undefined if the token is not allowed. */
  after(state: string, token: number): string | undefined {
    const text = this.#vocabulary.textOf(token);
    if (text === undefined) return undefined;
    let next: string | undefined = state;
    for (const byte of text) {
      next = this.language.step(next, byte);
      if (next === undefined) return undefined;
    }
    return next;
  }

  /** Bits by token id. */
  allowed(state: string): Uint32Array {
    const set = new Uint32Array(this.#vocabulary.words);
    for (const part of this.#vocabulary.parts) {
      const allowed = this.#allowedOf(part, this.language.alike(state, part.bytesMax));
      for (let word = 0; word < set.length; word++) set[word] = (set[word] as number) | (allowed[word] as number);
    }
    return set;
  }

  /** States that tokens of this length cannot tell apart share a set. */
  #allowedOf(part: VocabularyPart, state: string): Uint32Array {
    const key = `${part.bytesMax} ${state}`;
    const kept = this.#sets.get(key);
    if (kept) {
      this.#sets.delete(key);
      this.#sets.set(key, kept);
      return kept;
    }
    if (this.#states.length > statesMax) this.#forget();
    const set = this.#vocabulary.allowed(part, this.#number(state), this);
    this.#sets.set(key, set);
    if (this.#sets.size > setsMax) this.#sets.delete(this.#sets.keys().next().value as string);
    return set;
  }

  learn(from: number, byte: number): number {
    const next = this.language.step(this.#states[from] as string, byte);
    const entry = next === undefined ? dead : this.#number(next) + 1;
    this.table[from * bytes + byte] = entry;
    return entry;
  }

  #number(state: string): number {
    const known = this.#numbers.get(state);
    if (known !== undefined) return known;
    if (this.#states.length >= walkStatesMax) {
      throw new AppError(`response_format: one token leads to more than ${walkStatesMax} states`, { code: "InvalidRequest" });
    }
    const number = this.#states.push(state) - 1;
    this.#numbers.set(state, number);
    if (this.table.length < this.#states.length * bytes) {
      const larger = new Int32Array(2 * this.table.length);
      larger.set(this.table);
      this.table = larger;
    }
    return number;
  }

  #forget(): void {
    this.#numbers.clear();
    this.#states.length = 0;
    this.table = new Int32Array(64 * bytes);
  }
}
