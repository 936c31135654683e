// A language over a vocabulary's tokens: the allowed ones in a state and the state after one. Steps over bytes are cached.
import { AppError } from "../../crds/common.ts";
import type { Language } from "./language.ts";
import type { Steps, Vocabulary, VocabularyPart, Walk } from "./vocabulary.ts";

/** The table of steps has 1 KiB per state; after a walk that found more than this it starts anew. */
const statesMax = 4_096;
/** A walk over more states is given up; no properly bounded language needs that many for one token. */
const walkStatesMax = 65_536;
/** Cached sets of allowed tokens, one bit per token: 25 KB each for 200,000 tokens. */
const setsMax = 256;
const bytes = 256;
const dead = -1;

const always = (): boolean => true;

interface OpenWalk {
  readonly key: string;
  readonly walk: Walk;
}

export class Automaton implements Steps {
  readonly language: Language;
  readonly #vocabulary: Vocabulary;
  readonly #sets = new Map<string, Uint32Array | AppError>();
  readonly #numbers = new Map<string, number>();
  readonly #states: string[] = [];
  #walk: OpenWalk | undefined;
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

  /** Bits by token id; undefined if `goesOn` says no before they are known, and the next call goes on. */
  allowed(state: string, goesOn: () => boolean = always): Uint32Array | undefined {
    const set = new Uint32Array(this.#vocabulary.words);
    for (const part of this.#vocabulary.parts) {
      const allowed = this.#allowedOf(part, this.language.alike(state, part.reach), goesOn);
      if (allowed === undefined) return undefined;
      for (let word = 0; word < set.length; word++) set[word] = (set[word] as number) | (allowed[word] as number);
    }
    return set;
  }

  /** States that tokens of this part cannot tell apart share a set. A walk that was left, of whichever state, comes first. */
  #allowedOf(part: VocabularyPart, state: string, goesOn: () => boolean): Uint32Array | undefined {
    const key = `${this.#vocabulary.parts.indexOf(part)} ${state}`;
    for (;;) {
      const kept = this.#sets.get(key);
      if (kept) {
        this.#sets.delete(key);
        this.#sets.set(key, kept);
        if (kept instanceof AppError) throw kept;
        return kept;
      }
      this.#walk ??= { key, walk: this.#vocabulary.walk(part, this.#number(state)) };
      if (!this.#goOn(this.#walk, goesOn)) return undefined;
    }
  }

  /** False if it is not at its end. */
  #goOn({ key, walk }: OpenWalk, goesOn: () => boolean): boolean {
    try {
      if (!walk.run(this, goesOn)) return false;
      this.#sets.set(key, walk.bits);
    } catch (caught) {
      this.#sets.set(key, AppError.from(caught)); // who waits for it may be another than who goes on with it
    }
    if (this.#sets.size > setsMax) this.#sets.delete(this.#sets.keys().next().value as string);
    this.#end();
    return true;
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
      const message = `response_format: one token leads to more than ${walkStatesMax} states; repeat less in the patterns of the schema`;
      throw new AppError(message, { code: "InvalidRequest" });
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

  /** Also gives the memory of a walk over many states back. */
  #end(): void {
    this.#walk = undefined;
    if (this.#states.length <= statesMax) return;
    this.#numbers.clear();
    this.#states.length = 0;
    this.table = new Int32Array(64 * bytes);
  }
}
