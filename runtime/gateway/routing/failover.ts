// One generation request until its last token; when its worker fails, another one continues it token for token (DECISIONS.md 3).
import { AppError } from "../../../crds/common.ts";
import type { FailoverReason } from "../../../crds/names.ts";
import type { Constraint } from "../../constraints/language.ts";
import type { HostShare } from "./conversation-hosts.ts";
import type { Keep, Kept } from "./keep.ts";
import {
  classify,
  deadlinePassed,
  type FailoverLimits,
  type Fault,
  failoverLimits,
  orSilence,
  Patience,
  pauseMs,
  reasonOf,
  repeatedFaults,
  type Wait,
} from "./patience.ts";

/** An unset parameter is off. */
interface GenerationSampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly seed: bigint;
  readonly logprobs: boolean;
  readonly topLogprobs?: number;
  readonly minP?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly repetitionPenalty?: number;
  readonly bias?: readonly { readonly id: number; readonly value: number }[];
  readonly minTokens?: number;
  readonly constraint?: Constraint;
}

export interface RatedToken {
  readonly logprob: number;
  readonly top: readonly TopToken[];
}

export interface TopToken {
  readonly id: number;
  readonly logprob: number;
}

export interface Generation {
  readonly requestId: string;
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  readonly sampling: GenerationSampling;
  readonly eos: readonly number[];
  /** The lower number goes first; unset = 0. */
  readonly priority?: number;
  /** The client wants one embedding of the prompt instead of text. */
  readonly embed?: boolean;
  readonly promptLogprobs?: boolean;
  /** Only requests with the same one share what was computed for their prompts; unset = "". */
  readonly cacheSalt?: string;
  readonly keep?: Keep;
  /** The rank that has the kept answer. */
  readonly home?: number | undefined;
  readonly deadlineUnixMs: number;
  readonly traceparent: string;
  readonly signal: AbortSignal;
}

export type WorkerEvent =
  /** The request waits for a KV slot. */
  | { readonly type: "queued"; readonly queuedTokens: number; readonly again?: boolean }
  /** `again`: from a kept answer, whose rank had this queue then. */
  | { readonly type: "started"; readonly queuedTokens: number; readonly cachedTokens?: number; readonly again?: boolean }
  /** Replay reached this position. */
  | { readonly type: "progress"; readonly position: number }
  | { readonly type: "token"; readonly id: number; readonly position: number; readonly logprob: number; readonly top?: readonly TopToken[] }
  | { readonly type: "embedding"; readonly values: readonly number[] }
  | { readonly type: "prompt"; readonly position: number; readonly tokens: readonly RatedToken[] }
  | { readonly type: "finish"; readonly reason: "stop" | "length" | "draining"; readonly hosts?: readonly HostShare[] };

export type Generated =
  | { readonly type: "started"; readonly rank: number; readonly cachedTokens: number }
  | { readonly type: "token"; readonly id: number; readonly logprob: number; readonly top?: readonly TopToken[] }
  | { readonly type: "embedding"; readonly values: readonly number[] }
  /** The list starts with the second token, since the first has no log-probability. */
  | { readonly type: "prompt"; readonly tokens: readonly RatedToken[] }
  | { readonly type: "finish"; readonly reason: "stop" | "length" };

export interface Attempt {
  readonly rank: number;
  /** It ends with the first token, and another rank goes on. */
  readonly handsOver?: boolean;
  /** Ends with an AppError when the stream breaks. Returning early cancels it at the worker. */
  readonly events: AsyncIterable<WorkerEvent>;
  /** Frees the accounting; after `failed` the router avoids the rank for a moment. */
  close(failed: boolean): void;
}

/** Ranks that refused or failed the request since its last token. */
export interface Shunned {
  readonly avoid: ReadonlySet<number>;
  /** The full ones; failover may ask them again. */
  readonly busy: ReadonlySet<number>;
}

export interface Workers {
  /** Avoids shunned ranks if possible; returns a reason when no worker is available. */
  start(generation: Generation, replay: readonly number[], shunned: Shunned): Attempt | { readonly none: string };
  /** Resolves on a new membership, on a free place for this request, or after timeoutMs. */
  changed(timeoutMs: number, signal: AbortSignal): Promise<void>;
  /** Milliseconds of wait allowed while the deployment is scaled to zero; 0 or unset = it is not. */
  holdMs?(): number;
  /** The rank that keeps most of an answer. */
  kept?(id: string): Promise<Kept | undefined>;
}

const waitStepMs = 250;

/** The pause between two tokens of different workers. */
export interface Stall {
  readonly fromRank: number;
  readonly rank: number;
  readonly tokensReplayed: number;
  /** The time between the lost worker's last sign and the detection. */
  readonly detectionMs: number;
  /** The time until another worker computed the request. */
  readonly failoverMs: number;
  /** The time until its first token, with prompt, replay and expert loads. */
  readonly replayMs: number;
}

export interface FailoverHooks {
  onFailover?(reason: FailoverReason, fromRank: number, tokensSoFar: number, error: AppError): void;
  onRecovered?(stall: Stall): void;
  /** `ms`: from the token that a rank for prefill made to the next one. */
  onHandover?(fromRank: number, rank: number, ms: number): void;
  readonly now?: () => number;
}

export async function* generate(
  generation: Generation,
  workers: Workers,
  limits: FailoverLimits = failoverLimits,
  hooks: FailoverHooks = {},
): AsyncGenerator<Generated, void, void> {
  const state = new RequestState(generation, limits, hooks);
  while (true) {
    state.check();
    const attempt = workers.start(generation, state.tokens, state.shunned());
    if ("none" in attempt) {
      await state.waitFor(workers, attempt.none);
      continue;
    }
    let ended: Ended;
    try {
      ended = yield* follow(attempt, state);
    } finally {
      attempt.close(ended instanceof AppError && classify(ended) === "worker" && !generation.signal.aborted);
    }
    if (ended === undefined) return;
    if (ended === "handover") continue;
    const finished = state.finishedAnyway();
    if (finished) {
      yield { type: "finish", reason: finished };
      return;
    }
    const fault = state.failed(attempt, ended);
    if (fault === "busy" || fault === "expert") await workers.changed(state.pauseMs(), generation.signal);
  }
}

type Ended = AppError | "handover" | undefined;

/** Returns undefined when the request is finished, else what ended the attempt. */
async function* follow(attempt: Attempt, state: RequestState): AsyncGenerator<Generated, Ended, void> {
  const iterator = attempt.events[Symbol.asyncIterator]();
  try {
    while (true) {
      state.waits();
      const next = await orSilence(iterator.next(), state.patience.silence(attempt.rank));
      if (next.done) return new AppError(`rank ${attempt.rank} ended the stream before the text`, { code: "Lost" });
      const event = next.value;
      switch (event.type) {
        case "queued":
          state.patience.queued();
          break;
        case "started":
          state.patience.started();
          state.computes(attempt.rank);
          yield { type: "started", rank: attempt.rank, cachedTokens: event.cachedTokens ?? 0 };
          break;
        case "progress":
          state.patience.progressed();
          break;
        case "token":
          if (state.take(event.id, event.position)) yield tokenOf(event);
          break;
        case "embedding":
          yield event;
          break;
        case "prompt": {
          const tokens = state.takePrompt(event.position, event.tokens);
          if (tokens.length > 0) yield { type: "prompt", tokens };
          break;
        }
        case "finish":
          if (event.reason === "draining") return new AppError(`rank ${attempt.rank} is draining`, { code: "Draining" });
          if (state.handsOver(attempt, event.reason)) return "handover";
          yield { type: "finish", reason: event.reason };
          return undefined;
      }
    }
  } catch (caught) {
    return AppError.from(caught, "generating");
  } finally {
    iterator.return?.().then(nothing, nothing);
  }
}

function tokenOf({ id, logprob, top }: Extract<WorkerEvent, { type: "token" }>): Generated {
  return top ? { type: "token", id, logprob, top } : { type: "token", id, logprob };
}

class RequestState {
  readonly generation: Generation;
  readonly patience: Patience;
  readonly tokens: number[] = [];
  #promptNext = 1;
  readonly #avoid = new Set<number>();
  readonly #busy = new Set<number>();
  #busySince: number | undefined;
  readonly #limits: FailoverLimits;
  readonly #hooks: FailoverHooks;
  readonly #now: () => number;
  // Every token resets these counts.
  #attempts = 0;
  #startedAttempts = 0;
  #internalErrors = 0;
  #pauses = 0;
  #lastError: AppError | undefined;
  #waitsSince = 0;
  /** The first loss from which the request has not recovered. */
  #loss: { readonly rank: number; readonly since: number; readonly knownAt: number; readonly tokens: number } | undefined;
  #computes = { rank: 0, since: 0 };
  #handover: { readonly rank: number; readonly since: number } | undefined;

  constructor(generation: Generation, limits: FailoverLimits, hooks: FailoverHooks) {
    this.generation = generation;
    this.#limits = limits;
    this.#hooks = hooks;
    this.#now = hooks.now ?? Date.now;
    this.patience = new Patience(limits, generation.prompt.length, this.#now);
  }

  check(): void {
    const { signal, deadlineUnixMs } = this.generation;
    if (signal.aborted) throw new AppError("the client went away", { code: "Cancelled" });
    if (this.#now() >= deadlineUnixMs) throw deadlinePassed(this.#lastError);
    const over = this.patience.over();
    const tooMany = this.#attempts >= this.#limits.attemptsMax || this.#startedAttempts >= this.#limits.startedAttemptsMax;
    if (over || tooMany) throw this.#giveUp(over);
  }

  async waitFor(workers: Workers, reason: string): Promise<void> {
    this.patience.held(workers.holdMs?.() ?? 0);
    this.#lastError ??= new AppError(reason, { code: "NoWorker", retry: { afterMs: 5_000 } });
    this.#avoid.clear();
    await workers.changed(waitStepMs, this.generation.signal);
  }

  shunned(): Shunned {
    const since = this.#busySince ?? this.#now();
    if (this.#now() - since >= this.#limits.ownClassMs) this.#busy.clear();
    return { avoid: this.#avoid, busy: this.#busy };
  }

  pauseMs(): number {
    return pauseMs(this.#pauses++, Math.random());
  }

  /** Starts the wait for the next event, without the time that the client takes to read. */
  waits(): void {
    this.#waitsSince = this.#now();
  }

  computes(rank: number): void {
    this.#computes = { rank, since: this.#now() };
  }

  /** False where the text is complete. */
  handsOver({ rank, handsOver }: Attempt, reason: "stop" | "length"): boolean {
    if (!handsOver || reason === "stop" || this.finishedAnyway() !== undefined) return false;
    this.#handover = { rank, since: this.#now() };
    this.patience.handedOver();
    return true;
  }

  /** Drops prompt tokens that a failover repeats. */
  takePrompt(position: number, tokens: readonly RatedToken[]): readonly RatedToken[] {
    if (position > this.#promptNext) throw new AppError(`prompt token ${position} came before ${this.#promptNext}`, { code: "Lost" });
    this.patience.progressed();
    const fresh = tokens.slice(this.#promptNext - position);
    this.#promptNext += fresh.length;
    return fresh;
  }

  /** Returns false for a repeated token; throws on a gap, and where a kept answer takes another way. */
  take(id: number, position: number): boolean {
    if (position < this.tokens.length) {
      if (this.tokens[position] === id) return false;
      throw new AppError(`token ${position} of the kept answer is another one`, { code: "KeptDiffers" });
    }
    if (position > this.tokens.length) throw new AppError(`token ${position} came before ${this.tokens.length}`, { code: "Lost" });
    if (position === 0) this.#checkPrompt();
    this.tokens.push(id);
    this.patience.token();
    this.#recovered();
    this.#wentOn();
    this.#attempts = 0;
    this.#startedAttempts = 0;
    this.#internalErrors = 0;
    this.#pauses = 0;
    this.#avoid.clear(); // a rank that failed a while ago may be the only one of the class
    this.#busy.clear();
    this.#busySince = undefined;
    this.#lastError = undefined;
    return true;
  }

  #checkPrompt(): void {
    const { promptLogprobs, prompt } = this.generation;
    if (!promptLogprobs || this.#promptNext >= prompt.length) return;
    throw new AppError(`token 0 came before prompt token ${this.#promptNext}`, { code: "Lost" });
  }

  /** A finish reason if the text is complete although the worker died before it reported so. */
  finishedAnyway(): "stop" | "length" | undefined {
    const last = this.tokens.at(-1);
    if (last !== undefined && this.generation.eos.includes(last)) return "stop";
    return this.tokens.length >= this.generation.maxTokens ? "length" : undefined;
  }

  /** Throws when another attempt would not help. */
  failed({ rank }: Attempt, error: AppError): Fault {
    const fault = classify(error);
    if (this.generation.signal.aborted) return fault;
    if (fault === "caller") throw error;
    if (fault === "deadline") throw deadlinePassed(error);
    // Full workers are not lost, and a request without a token has no stall.
    if (fault === "worker" && this.tokens.length > 0)
      this.#loss ??= { rank, since: this.#waitsSince, knownAt: this.#now(), tokens: this.tokens.length };
    if (fault === "worker" && this.patience.computing) this.#startedAttempts++;
    this.patience.failed(fault);
    this.#lastError = error;
    if (fault === "kept") {
      if (this.#attempts++ > 0) this.#avoid.add(rank);
      return fault;
    }
    this.#avoid.add(rank);
    this.#busy.delete(rank);
    if (fault === "busy") {
      this.#busySince ??= this.#now();
      this.#busy.add(rank);
      return fault;
    }
    this.#attempts++;
    if (repeatedFaults.has(error.code) && ++this.#internalErrors >= this.#limits.internalErrorsMax) throw error;
    this.#hooks.onFailover?.(reasonOf(error), rank, this.tokens.length, error);
    return fault;
  }

  #recovered(): void {
    if (this.#loss === undefined) return;
    const { rank: fromRank, since, knownAt, tokens: tokensReplayed } = this.#loss;
    this.#loss = undefined;
    const { rank, since: computesSince } = this.#computes;
    const [detectionMs, failoverMs, replayMs] = [knownAt - since, computesSince - knownAt, this.#now() - computesSince];
    this.#hooks.onRecovered?.({ fromRank, rank, tokensReplayed, detectionMs, failoverMs, replayMs });
  }

  #wentOn(): void {
    if (this.#handover === undefined) return;
    const { rank, since } = this.#handover;
    this.#handover = undefined;
    if (this.#computes.rank !== rank) this.#hooks.onHandover?.(rank, this.#computes.rank, this.#now() - since);
  }

  #giveUp(waitedFor: Wait | undefined): AppError {
    const last = this.#lastError;
    const busy = waitedFor === "queue" || (waitedFor !== "expert" && last !== undefined && classify(last) === "busy");
    const [code, afterMs] = busy ? ["QueueFull", 2_000] : ["NoWorker", 5_000];
    const held = waitedFor === "hold" ? "the deployment was scaled to zero, and no rank has come back in time" : undefined;
    return new AppError(held ?? last?.message ?? "no worker is known", { code, retry: { afterMs }, cause: last });
  }
}

function nothing(): void {}
