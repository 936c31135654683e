// A language over a vocabulary's tokens: the allowed ones in a state and the state after one. Steps over bytes are cached.
import { AppError } from "../../crds/common.ts";
import { type Language, unhurried } from "./language.ts";
import type { Steps, Vocabulary, VocabularyPart, Walk } from "./vocabulary.ts";

/** The table of steps has 1 KiB per state; a walk that is to find more waits for `LargeTable`. */
const statesMax = 4_096;
/** After a walk with so many states the next one starts anew, so that small walks are never made large by those before them. */
const statesKeptMax = statesMax / 2;
/** A walk over more states is given up; no properly bounded language needs that many for one token. */
const walkStatesMax = 65_536;
/** An automaton gives the large table up once nobody asked for its walk in so many steps of the engine. */
const idleTurnsMax = 64;
/** Cached sets of allowed tokens, one bit per token: 25 KB each for 200,000 tokens. */
const setsMax = 256;
const bytes = 256;
const dead = -1;

const always = (): boolean => true;

interface OpenWalk {
  readonly key: string;
  readonly walk: Walk;
}

/** One automaton at a time has more than `statesMax` states, whose table takes 64 MiB; the walks of others wait. */
export class LargeTable {
  #turn = 0;
  #usedAt = 0;
  #holder: Automaton | undefined;

  has(one: Automaton): boolean {
    this.#holder ??= one;
    this.uses(one);
    return this.#holder === one;
  }

  /** Somebody asks for its walk, even where no time is left for it. */
  uses(one: Automaton): void {
    if (this.#holder === one) this.#usedAt = this.#turn;
  }

  /** Steps of the engine begin; as many as keep it where none is given, when no request is open. */
  pass(steps = idleTurnsMax): void {
    this.#turn += steps;
    if (this.#turn - this.#usedAt >= idleTurnsMax) this.#holder?.end();
  }

  leave(one: Automaton): void {
    if (this.#holder === one) this.#holder = undefined;
  }
}

export class Automaton implements Steps {
  readonly language: Language;
  readonly #vocabulary: Vocabulary;
  readonly #largeTable: LargeTable;
  readonly #sets = new Map<string, Uint32Array | AppError>();
  readonly #numbers = new Map<string, number>();
  readonly #states: string[] = [];
  /** The states that stand for others, and the one that is looked for. */
  readonly #alike = new Map<string, string>();
  #merge: { readonly key: string; readonly work: Generator<undefined, string> } | undefined;
  #walk: OpenWalk | undefined;
  /** See Steps. */
  table = new Int32Array(64 * bytes);

  constructor(language: Language, vocabulary: Vocabulary, largeTable = new LargeTable()) {
    this.#largeTable = largeTable;
    this.language = language;
    this.#vocabulary = vocabulary;
  }

  /** Its walk is wanted, and keeps its states. */
  uses(): void {
    this.#largeTable.uses(this);
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
      const alike = this.#alikeOf(part, state, goesOn);
      const allowed = alike === undefined ? undefined : this.#allowedOf(part, alike, goesOn);
      if (allowed === undefined) return undefined;
      for (let word = 0; word < set.length; word++) set[word] = (set[word] as number) | (allowed[word] as number);
    }
    return set;
  }

  /** As with walks, what was left comes first. */
  #alikeOf(part: VocabularyPart, state: string, goesOn: () => boolean): string | undefined {
    const key = `${this.#vocabulary.parts.indexOf(part)} ${state}`;
    for (;;) {
      const known = this.#alike.get(key);
      if (known !== undefined) return known;
      this.#merge ??= { key, work: unhurried(this.language.alike(state, part.reach)) };
      const { done, value } = this.#merge.work.next();
      if (done) {
        this.#alike.set(this.#merge.key, value);
        if (this.#alike.size > setsMax) this.#alike.delete(this.#alike.keys().next().value as string);
        this.#merge = undefined;
      } else if (!goesOn()) return undefined;
    }
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
      const start = this.#walk ? 0 : this.#number(state);
      if (start === undefined) return undefined;
      this.#walk ??= { key, walk: this.#vocabulary.walk(part, start) };
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
    this.end();
    return true;
  }

  learn(from: number, byte: number): number {
    const next = this.language.step(this.#states[from] as string, byte);
    const number = next === undefined ? undefined : this.#number(next);
    if (next !== undefined && number === undefined) return 0;
    const entry = number === undefined ? dead : number + 1;
    this.table[from * bytes + byte] = entry;
    return entry;
  }

  /** Undefined where there is no room for one more now. */
  #number(state: string): number | undefined {
    const known = this.#numbers.get(state);
    if (known !== undefined) return known;
    if (this.#states.length >= walkStatesMax) {
      const message = `response_format: one token leads to more than ${walkStatesMax} states; repeat less in the patterns of the schema`;
      throw new AppError(message, { code: "InvalidRequest" });
    }
    if (this.#states.length >= statesMax && !this.#largeTable.has(this)) return undefined;
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
  end(): void {
    this.#walk = undefined;
    this.#largeTable.leave(this);
    if (this.#states.length <= statesKeptMax) return;
    this.#numbers.clear();
    this.#states.length = 0;
    this.table = new Int32Array(64 * bytes);
  }
}
