// The constraints of open requests over one vocabulary, with shared automata, and the position of one request.
import { AppError } from "../../crds/common.ts";
import { Automaton, LargeTable } from "./automaton.ts";
import { languageOf } from "./index.ts";
import type { Constraint, Language } from "./language.ts";
import type { Vocabulary } from "./vocabulary.ts";

const automataMax = 16;

const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });

/** Time for walks over the vocabulary, which requests share. */
class WalkTime {
  /** Requests whose tokens are not known yet. */
  readonly late = new Set<Held>();
  readonly #now: () => number;
  turn = 0;
  #leftMs = Number.POSITIVE_INFINITY;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** By turns those that have walked least come first, and those that are late for longest: no walk waits for ever. */
  begin(ms: number): void {
    this.#leftMs = ms;
    this.turn += 1;
    const order = (held: Held) => (this.turn % 2 === 0 ? held.lateSince : held.walkedMs);
    for (const held of [...this.late].sort((a, b) => order(a) - order(b))) {
      if (held.isWanted) held.goOn();
      else held.leave(); // its request has ended or waits
      held.isWanted = false;
    }
  }

  take<T>(held: Held, walk: (goesOn: () => boolean) => T): T {
    const from = this.#now();
    const end = from + this.#leftMs;
    try {
      return walk(() => this.#now() < end);
    } finally {
      const took = this.#now() - from;
      held.walkedMs += took;
      this.#leftMs -= took;
    }
  }
}

export class Languages {
  readonly vocab: number;
  readonly #load: () => Promise<Vocabulary>;
  readonly #time: WalkTime;
  readonly #largeTable = new LargeTable();
  #loading: Promise<void> | undefined;
  #vocabulary: Vocabulary | undefined;
  /** The most recently used ones; a busy one takes some MB. */
  readonly #automata = new Map<string, Automaton>();

  /** Walks are never left where no clock is given. */
  constructor(vocab: number, load: () => Promise<Vocabulary>, now: () => number = () => 0) {
    this.vocab = vocab;
    this.#load = load;
    this.#time = new WalkTime(now);
  }

  /** Goes on with walks that were left; until the next call, all walks together take so long. */
  walk(ms: number): void {
    this.#largeTable.pass(1);
    this.#time.begin(ms);
  }

  /** No request is open. */
  rest(): void {
    this.#largeTable.pass();
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
    const held = new Held(this.#automaton(constraint), new Set(eos), this.#time);
    for (const token of replay) held.accept(token);
    return held;
  }

  #automaton(constraint: Constraint): Automaton {
    if (!this.#vocabulary) throw new RangeError("hold() before prepare()");
    const key = `${constraint.name} ${constraint.spec}`;
    const automaton = this.#automata.get(key) ?? new Automaton(named(constraint), this.#vocabulary, this.#largeTable);
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
  readonly #time: WalkTime;
  #state: string;
  walkedMs = 0;
  /** The turn; Infinity while its tokens are known. */
  lateSince = Number.POSITIVE_INFINITY;
  /** Its candidates were asked for since time was given last. */
  isWanted = false;

  constructor(automaton: Automaton, eos: ReadonlySet<number>, time: WalkTime) {
    this.#time = time;
    this.#automaton = automaton;
    this.#eos = eos;
    this.#state = automaton.language.start;
  }

  allows(token: number): boolean {
    if (this.#eos.has(token)) return this.#automaton.language.ends(this.#state);
    return this.#automaton.after(this.#state, token) !== undefined;
  }

  leave(): void {
    this.#time.late.delete(this);
    this.lateSince = Number.POSITIVE_INFINITY;
  }

  goOn(): void {
    this.#automaton.uses();
    try {
      this.#allowed();
    } catch {
      // `candidates` tells of it to the request.
    }
  }

  #allowed(): Uint32Array | undefined {
    const { late, turn } = this.#time;
    const since = Math.min(this.lateSince, turn);
    this.leave();
    const bits = this.#time.take(this, (goesOn) => this.#automaton.allowed(this.#state, goesOn));
    if (bits === undefined) {
      late.add(this);
      this.lateSince = since;
    }
    return bits;
  }

  /** Writes the allowed ids, ascending except for end tokens; returns their number, or undefined while they are not known. */
  candidates(into: Uint32Array): number | undefined {
    this.isWanted = true;
    const bits = this.#allowed();
    if (bits === undefined) return undefined;
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
