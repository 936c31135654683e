// Owns one request until its last token. A worker that errs, drains, falls silent or vanishes is replaced by another one
// that gets the prompt, the tokens so far (to replay) and the same seed, so that the text goes on token for token.
// Not here: which worker (router.ts), the connection (pool.ts), text and stop strings (text.ts).
import { AppError } from "../../crds/common.ts";

export interface Generation {
  readonly requestId: string;
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  readonly sampling: {
    readonly temperature: number;
    readonly topP: number;
    readonly topK: number;
    readonly seed: bigint;
    readonly logprobs: boolean;
  };
  readonly eos: readonly number[];
  readonly deadlineUnixMs: number;
  /** Of the request span; "" without tracing. */
  readonly traceparent: string;
  readonly signal: AbortSignal;
}

export type WorkerEvent =
  | { readonly type: "started"; readonly queuedTokens: number; readonly cachedPromptTokens: number }
  | { readonly type: "token"; readonly id: number; readonly position: number; readonly logprob: number }
  | { readonly type: "finish"; readonly reason: "stop" | "length" | "cancelled" | "draining" };

export type Generated =
  | { readonly type: "started"; readonly rank: number }
  | { readonly type: "token"; readonly id: number; readonly logprob: number }
  | { readonly type: "finish"; readonly reason: "stop" | "length" };

/** A worker that was chosen for one attempt. */
export interface Attempt {
  readonly rank: number;
  /** Ends with an AppError when the stream breaks. Returning early cancels it at the worker. */
  readonly events: AsyncIterable<WorkerEvent>;
  /** Frees the accounting; `failed` keeps the router away from the rank for a moment. */
  close(failed: boolean): void;
}

/** The workers, as failover sees them. */
export interface Workers {
  /** Starts on the best worker, other than `avoid` when there is a choice; a reason when there is none now. */
  start(generation: Generation, replay: readonly number[], avoid: ReadonlySet<number>): Attempt | { readonly none: string };
  /** Resolves when the membership changed, a suspect is tried again, or after at most timeoutMs. */
  changed(timeoutMs: number, signal: AbortSignal): Promise<void>;
}

export type FailoverReason = "lost" | "draining" | "silent" | "error";

export interface FailoverLimits {
  /** Without a worker for longer than this, the request fails. Covers the reload of a lost expert or a replaced pod. */
  readonly noWorkerMs: number;
  /** Before the first token: this, and per prompt token what a slow prefill takes. */
  readonly firstTokenMs: number;
  readonly perPromptTokenMs: number;
  /** Between two tokens. Broken connections show much earlier, by keepalive; this finds workers that hang. */
  readonly nextTokenMs: number;
  /** Attempts in a row that no worker accepted. */
  readonly attemptsMax: number;
  /** Attempts in a row that were accepted and brought no token: a request that ends workers must not meet them all. */
  readonly acceptedAttemptsMax: number;
  /** Internal errors in a row: then it is the request, not the worker. */
  readonly internalErrorsMax: number;
}

export const failoverLimits: FailoverLimits = {
  noWorkerMs: 30_000,
  firstTokenMs: 60_000,
  perPromptTokenMs: 20,
  nextTokenMs: 35_000,
  attemptsMax: 200,
  acceptedAttemptsMax: 6,
  internalErrorsMax: 3,
};

const waitStepMs = 250;
const busyWaitMs = 100;

export interface FailoverHooks {
  onFailover?(reason: FailoverReason, fromRank: number, tokensSoFar: number, error: AppError): void;
  readonly now?: () => number;
}

/** Codes that no other worker would answer differently. */
const hopeless = new Set(["InvalidRequest", "ContextOverflow"]);
const busyCodes = new Set(["QueueFull", "Busy"]);

export async function* generate(
  generation: Generation,
  workers: Workers,
  limits: FailoverLimits = failoverLimits,
  hooks: FailoverHooks = {},
): AsyncGenerator<Generated, void, void> {
  const state = new RequestState(generation, limits, hooks);
  while (true) {
    state.check();
    const attempt = workers.start(generation, state.tokens, state.avoid);
    if ("none" in attempt) {
      await state.waitFor(workers, attempt.none);
      continue;
    }
    let ended: AppError | undefined;
    try {
      ended = yield* follow(attempt, state);
    } finally {
      attempt.close(ended !== undefined && isWorkerFault(ended) && !generation.signal.aborted);
    }
    if (ended === undefined) return;
    const finished = state.finishedAnyway();
    if (finished) {
      yield { type: "finish", reason: finished };
      return;
    }
    state.failed(attempt.rank, ended);
    if (busyCodes.has(ended.code)) await workers.changed(busyWaitMs, generation.signal);
  }
}

/** One attempt: yields its tokens; returns undefined when the request is finished, else why the attempt ended. */
async function* follow(attempt: Attempt, state: RequestState): AsyncGenerator<Generated, AppError | undefined, void> {
  const iterator = attempt.events[Symbol.asyncIterator]();
  try {
    while (true) {
      const next = await orSilence(iterator.next(), state.silenceMs(), attempt.rank);
      if (next.done) return new AppError(`rank ${attempt.rank} ended the stream before the text`, { code: "Lost" });
      const event = next.value;
      if (event.type === "finish") {
        if (event.reason === "draining") return new AppError(`rank ${attempt.rank} is draining`, { code: "Draining" });
        if (event.reason === "cancelled") return new AppError(`rank ${attempt.rank} gave the request up`, { code: "Lost" });
        yield { type: "finish", reason: event.reason };
        return undefined;
      }
      if (event.type === "started") {
        state.accepted();
        yield { type: "started", rank: attempt.rank };
      } else if (state.take(event.id, event.position)) yield { type: "token", id: event.id, logprob: event.logprob };
    }
  } catch (caught) {
    return AppError.from(caught, "generating");
  } finally {
    iterator.return?.().then(nothing, nothing);
  }
}

function isWorkerFault(error: AppError): boolean {
  return !busyCodes.has(error.code) && !hopeless.has(error.code);
}

class RequestState {
  readonly generation: Generation;
  readonly tokens: number[] = [];
  readonly avoid = new Set<number>();
  readonly #limits: FailoverLimits;
  readonly #hooks: FailoverHooks;
  readonly #now: () => number;
  #started = false;
  #accepted = false;
  #acceptedAttempts = 0;
  #withoutWorkerSince: number;
  #attempts = 0;
  #internalErrors = 0;
  #lastError: AppError | undefined;

  constructor(generation: Generation, limits: FailoverLimits, hooks: FailoverHooks) {
    this.generation = generation;
    this.#limits = limits;
    this.#hooks = hooks;
    this.#now = hooks.now ?? Date.now;
    this.#withoutWorkerSince = this.#now();
  }

  /** Throws when the request may go on no longer. */
  check(): void {
    const { signal, deadlineUnixMs } = this.generation;
    if (signal.aborted) throw new AppError("the client went away", { code: "Cancelled" });
    if (this.#now() >= deadlineUnixMs)
      throw new AppError("The request's deadline passed.", { code: "DeadlineExceeded", cause: this.#lastError });
    const waited = this.#now() - this.#withoutWorkerSince;
    const tooMany = this.#attempts >= this.#limits.attemptsMax || this.#acceptedAttempts >= this.#limits.acceptedAttemptsMax;
    if (waited > this.#limits.noWorkerMs || tooMany) throw this.#giveUp();
  }

  async waitFor(workers: Workers, reason: string): Promise<void> {
    this.#lastError ??= new AppError(reason, { code: "NoWorker", retry: { afterMs: 5_000 } });
    this.avoid.clear();
    await workers.changed(waitStepMs, this.generation.signal);
  }

  silenceMs(): number {
    const { firstTokenMs, perPromptTokenMs, nextTokenMs } = this.#limits;
    const toCompute = this.generation.prompt.length + this.tokens.length;
    return this.#started ? nextTokenMs : firstTokenMs + perPromptTokenMs * toCompute;
  }

  accepted(): void {
    this.#accepted = true;
    this.#withoutWorkerSince = this.#now();
  }

  /** Whether this token is the next one; one that was seen is dropped, a gap is the worker's error. */
  take(id: number, position: number): boolean {
    if (position < this.tokens.length) return false;
    if (position > this.tokens.length) throw new AppError(`token ${position} came before ${this.tokens.length}`, { code: "Lost" });
    this.tokens.push(id);
    this.#started = true;
    this.#attempts = 0;
    this.#acceptedAttempts = 0;
    this.#internalErrors = 0;
    this.#withoutWorkerSince = this.#now();
    this.#lastError = undefined;
    return true;
  }

  /** The worker died between the last token and its finish event. */
  finishedAnyway(): "stop" | "length" | undefined {
    const last = this.tokens.at(-1);
    if (last !== undefined && this.generation.eos.includes(last)) return "stop";
    return this.tokens.length >= this.generation.maxTokens ? "length" : undefined;
  }

  failed(rank: number, error: AppError): void {
    if (this.generation.signal.aborted) return;
    if (hopeless.has(error.code)) throw error;
    this.#lastError = error;
    this.#started = false;
    this.avoid.add(rank);
    if (busyCodes.has(error.code)) return;
    this.#attempts++;
    if (this.#accepted) {
      this.#acceptedAttempts++;
      this.#withoutWorkerSince = this.#now();
    }
    this.#accepted = false;
    if (error.code === "Internal" && ++this.#internalErrors >= this.#limits.internalErrorsMax) throw error;
    this.#hooks.onFailover?.(reasonOf(error), rank, this.tokens.length, error);
  }

  #giveUp(): AppError {
    const last = this.#lastError;
    if (last && busyCodes.has(last.code)) return new AppError(last.message, { code: "QueueFull", retry: { afterMs: 2_000 }, cause: last });
    return new AppError(last?.message ?? "no worker is known", { code: "NoWorker", retry: { afterMs: 5_000 }, cause: last });
  }
}

function reasonOf(error: AppError): FailoverReason {
  if (error.code === "Silent") return "silent";
  if (error.code === "Draining") return "draining";
  return error.code === "Lost" || error.code === "Unavailable" ? "lost" : "error";
}

async function orSilence<T>(next: Promise<T>, limitMs: number, rank: number): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new AppError(`rank ${rank} sent nothing for ${limitMs} ms`, { code: "Silent" })), limitMs);
  try {
    return await Promise.race([next, promise]);
  } finally {
    clearTimeout(timer);
    next.catch(nothing); // after a silence nobody else looks at it
  }
}

function nothing(): void {}
