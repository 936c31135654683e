// The constraints of open requests over one vocabulary, with shared automata, and the position of one request.
import { AppError } from "../../crds/common.ts";
import { Automaton } from "./automaton.ts";
import { languageOf } from "./index.ts";
import type { Constraint, Language } from "./language.ts";
import type { Vocabulary } from "./vocabulary.ts";

const automataMax = 16;

const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });

export class Languages {
  readonly vocab: number;
  readonly #load: () => Promise<Vocabulary>;
  #loading: Promise<void> | undefined;
  #vocabulary: Vocabulary | undefined;
  /** The most recently used ones; a busy one takes some MB. */
  readonly #automata = new Map<string, Automaton>();

  constructor(vocab: number, load: () => Promise<Vocabulary>) {
    this.vocab = vocab;
    this.#load = load;
  }

  /** Resolves once `hold` may be called; the next request retries a failure. */
  prepare(): Promise<void> {
    this.#loading ??= this.#load().then(
      (vocabulary) => {
        this.#vocabulary = vocabulary;
      },
      (caught) => {
        this.#loading = undefined;
        throw invalid(`response_format: the texts of this model's tokens cannot be had: ${AppError.from(caught).message}`);
      },
    );
    return this.#loading;
  }

  /** The state of a request after the tokens it already has. Throws AppError `InvalidRequest`. */
  hold(constraint: Constraint, eos: readonly number[], replay: Uint32Array): Held {
    if (eos.length === 0)
      throw invalid(`response_format: ${constraint.name} needs a token that ends the text, and ignore_eos takes it away`);
    const held = new Held(this.#automaton(constraint), new Set(eos));
    for (const token of replay) held.accept(token);
    return held;
  }

  #automaton(constraint: Constraint): Automaton {
    if (!this.#vocabulary) throw new RangeError("hold() before prepare()");
    const key = `${constraint.name} ${constraint.spec}`;
    const automaton = this.#automata.get(key) ?? new Automaton(named(constraint), this.#vocabulary);
    this.#automata.delete(key);
    this.#automata.set(key, automaton);
    if (this.#automata.size > automataMax) this.#automata.delete(this.#automata.keys().next().value as string);
    return automaton;
  }
}

function named(constraint: Constraint): Language {
  try {
    return languageOf(constraint);
  } catch (caught) {
    throw invalid(`response_format: ${AppError.from(caught).message}`);
  }
}

export class Held {
  readonly #automaton: Automaton;
  readonly #eos: ReadonlySet<number>;
  #state: string;

  constructor(automaton: Automaton, eos: ReadonlySet<number>) {
    this.#automaton = automaton;
    this.#eos = eos;
    this.#state = automaton.language.start;
  }

  allows(token: number): boolean {
    if (this.#eos.has(token)) return this.#automaton.language.ends(this.#state);
    return this.#automaton.after(this.#state, token) !== undefined;
  }

  /** Writes the allowed ids, ascending except for end tokens; returns their number. */
  candidates(into: Uint32Array): number {
    const bits = this.#automaton.allowed(this.#state);
    let count = 0;
    for (let word = 0; word < bits.length; word++) {
      for (let rest = (bits[word] as number) | 0; rest !== 0; rest &= rest - 1) into[count++] = word * 32 + 31 - Math.clz32(rest & -rest);
    }
    // An end token is no part of the text, even if it has one.
    for (const id of this.#eos) {
      if ((((bits[id >>> 5] ?? 0) >>> (id & 31)) & 1) === 0) continue;
      const at = into.indexOf(id);
      into.copyWithin(at, at + 1, count);
      count -= 1;
    }
    if (this.#automaton.language.ends(this.#state)) for (const id of this.#eos) if (id < into.length) into[count++] = id;
    if (count === 0) throw invalid("response_format: no token of this model's vocabulary continues the text");
    return count;
  }

  accept(token: number): void {
    if (this.#eos.has(token)) return;
    const next = this.#automaton.after(this.#state, token);
    if (next === undefined) throw invalid(`response_format: token ${token} does not continue the text`);
    this.#state = next;
  }
}
