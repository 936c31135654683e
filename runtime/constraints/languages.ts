// The languages that open requests are held to, over one vocabulary, and the place of one request in its language. Automata are shared by
// the requests of a language and kept for the next ones.
import { AppError } from "../../crds/common.ts";
import { Automaton } from "./automaton.ts";
import { languageOf } from "./index.ts";
import type { Constraint, Language } from "./language.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Languages whose automata are kept for the next request. */
const automataMax = 16;

const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });

export class Languages {
  readonly vocab: number;
  readonly #load: () => Promise<Vocabulary>;
  #loading: Promise<void> | undefined;
  #vocabulary: Vocabulary | undefined;
  /** Those of the constraints that were asked for last, of some MB each when much used. */
  readonly #automata = new Map<string, Automaton>();

  constructor(vocab: number, load: () => Promise<Vocabulary>) {
    this.vocab = vocab;
    this.#load = load;
  }

  /** Resolves once `hold` may be called. Where it fails, the next request tries again. */
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

  /** A request's place after the tokens that it has already. Throws AppError `InvalidRequest`. */
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
    this.#automata.set(key, automaton); // the one used last goes last
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

/** One request's place in its language. */
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

  /** Writes the ids that may come next, ascending but for those that end the text; returns how many. */
  candidates(into: Uint32Array): number {
    const bits = this.#automaton.allowed(this.#state);
    let count = 0;
    for (let word = 0; word < bits.length; word++) {
      for (let rest = (bits[word] as number) | 0; rest !== 0; rest &= rest - 1) into[count++] = word * 32 + 31 - Math.clz32(rest & -rest);
    }
    // A token that ends the text is no part of it, even if it has a text.
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
    if (this.#eos.has(token)) return; // nothing comes after it
    const next = this.#automaton.after(this.#state, token);
    if (next === undefined) throw invalid(`response_format: token ${token} does not continue the text`);
    this.#state = next;
  }
}
