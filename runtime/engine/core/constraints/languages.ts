// The languages that open requests are held to, over one vocabulary, and the place of one request in its language. Automata are shared
// by the requests of a language and kept for the next ones; the vocabulary is had when the first one asks. Pure but for that.
import { AppError } from "../../../../crds/common.ts";
import type { ConstraintName } from "../../../../crds/names.ts";
import { Automaton } from "./automaton.ts";
import { constraints } from "./index.ts";
import type { Vocabulary } from "./vocabulary.ts";

const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });

export class Languages {
  readonly vocab: number;
  readonly #load: () => Promise<Vocabulary>;
  #loading: Promise<void> | undefined;
  #vocabulary: Vocabulary | undefined;
  /** One for each constraint that was asked for, of some MB when much used. */
  readonly #automata = new Map<ConstraintName, Automaton>();

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
  hold(name: ConstraintName, eos: readonly number[], replay: Uint32Array): Held {
    if (eos.length === 0) throw invalid(`response_format: ${name} needs a token that ends the text, and ignore_eos takes it away`);
    const held = new Held(this.#automaton(name), new Set(eos));
    for (const token of replay) held.accept(token);
    return held;
  }

  #automaton(name: ConstraintName): Automaton {
    const kept = this.#automata.get(name);
    if (kept) return kept;
    const language = Object.hasOwn(constraints, name) ? constraints[name] : undefined;
    if (!language) throw invalid(`response_format: ${name} is not one of ${Object.keys(constraints).join(", ")}`);
    if (!this.#vocabulary) throw new RangeError("hold() before prepare()");
    const automaton = new Automaton(language, this.#vocabulary);
    this.#automata.set(name, automaton);
    return automaton;
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
