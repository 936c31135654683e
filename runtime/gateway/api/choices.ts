// The answers of one request, `n` per prompt, each with its own failover. Answer i equals a single answer with seed + i.
import type { Problem } from "../problem.ts";
import { Answer, type AnswerDeps, type AnswerRequest, type Piece, type Prepared, type Usage } from "./answer.ts";

/** Concurrent answers per request. */
const atOnceMax = 8;

export interface ChoicesRequest extends Pick<AnswerRequest, "id" | "token" | "keep" | "home" | "job" | "span" | "signal"> {
  readonly prompts: readonly Prepared[];
}

export interface ChoicePiece {
  readonly index: number;
  readonly piece: Piece;
}

/** How an API writes answers to its client, whole or as events. */
export interface AnswerWriter {
  /** `answers`: the pieces of each. */
  whole(answers: readonly (readonly Piece[])[], usage: Usage): object;
  /** Each answer's first piece is a marker. `usage`: so far. */
  events(piece: ChoicePiece, usage: Usage): readonly string[];
  /** Events after the last piece. */
  last(usage: Usage): readonly string[];
  /** The event of a stream that fails. */
  failed(problem: Problem): readonly string[];
  /** The answer's id, as the client sees it. */
  readonly id: string;
}

export interface WriterStart {
  readonly model: string;
  /** Unix seconds. */
  readonly created: number;
  /** The answer's ids are made of it. */
  readonly token: string;
  /** Events of a response up to this number are left out. */
  readonly after?: number;
  /** Undefined while no rank has told what it computes. */
  readonly fingerprint?: string | undefined;
}

/** `pieces` can be read once; the other fields are final when it ended. */
export class Choices {
  readonly #answers: readonly Answer[];
  readonly #keepIds: string[] = [];
  #begun = 0;
  readonly #promptTokens: number;
  readonly #perPrompt: number;
  readonly #deps: AnswerDeps;
  readonly #over = new AbortController();

  constructor({ id, token, keep, home, job, prompts, span, signal }: ChoicesRequest, deps: AnswerDeps) {
    this.#deps = deps;
    this.#promptTokens = prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
    this.#perPrompt = job.n;
    const first = job.sampling.seed ?? deps.drawSeed();
    const common = { job, span, signal: AbortSignal.any([signal, this.#over.signal]) };
    const alone = prompts.length * job.n === 1;
    this.#answers = prompts.flatMap((prepared, p) =>
      Array.from({ length: job.n }, (_, i) => {
        const at = p * job.n + i;
        const kept = keep && (at === 0 ? keep : { ...keep, id: `${keep.id}.${at}`, note: new Uint8Array() });
        if (kept) this.#keepIds.push(kept.id);
        const ids = { id: alone ? id : `${id}.${at}`, token: `${token}.${at}`, keep: kept, ...(at === 0 ? { home } : {}) };
        const one = { ...ids, seed: BigInt.asUintN(64, first + BigInt(i)) };
        return new Answer({ ...common, ...prepared, ...one }, deps);
      }),
    );
  }

  get count(): number {
    return this.#answers.length;
  }

  /** The ids of the answers that were begun. */
  get keepIds(): readonly string[] {
    return this.#keepIds.slice(0, this.#begun);
  }

  get failovers(): number {
    return this.#answers.reduce((sum, { failovers }) => sum + failovers, 0);
  }

  /** A prompt counts once, and as cached what the first of its answers found. */
  get usage(): Usage {
    const sum = (of: (answer: Answer, index: number) => number) => this.#answers.reduce((total, answer, i) => total + of(answer, i), 0);
    return {
      promptTokens: this.#promptTokens,
      cachedTokens: sum(({ cachedTokens }, i) => (i % this.#perPrompt === 0 ? cachedTokens : 0)),
      outputTokens: sum(({ outputTokens }) => outputTokens),
      reasoningTokens: sum(({ reasoningTokens }) => reasoningTokens),
    };
  }

  /** The first error cancels the other answers. */
  async *pieces(): AsyncGenerator<ChoicePiece, void, void> {
    this.#deps.metrics.add("enodia_gateway_tokens_total", this.#promptTokens, { kind: "prompt" });
    const running = new Map<number, Source>();
    const arrivals = new Arrivals();
    try {
      for (;;) {
        for (; this.#begun < this.#answers.length && running.size < atOnceMax; this.#begun++) {
          const source = (this.#answers[this.#begun] as Answer).pieces();
          running.set(this.#begun, source);
          arrivals.ask(this.#begun, source);
        }
        if (running.size === 0) return;
        const { index, result } = await arrivals.next();
        if (result.done) {
          running.delete(index);
          continue;
        }
        yield { index, piece: result.value };
        arrivals.ask(index, running.get(index) as Source); // behind the others
      }
    } finally {
      this.#over.abort();
      for (const source of running.values()) source.return().catch(nothing);
    }
  }
}

type Source = AsyncGenerator<Piece, void, void>;

interface Arrival {
  readonly index: number;
  readonly result: IteratorResult<Piece, void>;
}

/** Has one pending result per answer; Promise.race would retain all results while one answer waits. */
class Arrivals {
  readonly #come: (Arrival | { readonly error: unknown })[] = [];
  #wake: () => void = nothing;

  ask(index: number, source: Source): void {
    source.next().then(
      (result) => this.#add({ index, result }),
      (error: unknown) => this.#add({ error }),
    );
  }

  async next(): Promise<Arrival> {
    for (;;) {
      const first = this.#come.shift();
      if (first === undefined) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      if ("error" in first) throw first.error;
      return first;
    }
  }

  #add(arrival: Arrival | { readonly error: unknown }): void {
    this.#come.push(arrival);
    this.#wake();
  }
}

function nothing(): void {}
