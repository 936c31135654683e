// Limits of a request's waits for a worker, a KV slot, an expert or the next event (DECISIONS.md 4), and the classification of errors by
// cause.
import { AppError } from "../../../crds/common.ts";
import type { FailoverReason } from "../../../crds/names.ts";

export interface FailoverLimits {
  /** Limit without a worker, or without a rank for an expert. Covers the reload of a lost expert or a replaced pod. */
  readonly noWorkerMs: number;
  /** The limit in KV queues of all workers together; then the client gets a 429. */
  readonly queueMs: number;
  /** The limit of a worker's first event; it is below noWorkerMs, so that there is time for another worker. */
  readonly answerMs: number;
  /** The limit between KV slot and first token, plus perPromptTokenMs. */
  readonly firstTokenMs: number;
  readonly perPromptTokenMs: number;
  /** The limit between tokens; it finds engines that hang, as life-watch.ts sees lost workers earlier. */
  readonly nextTokenMs: number;
  /** Full workers of the request's numerics class are preferred to other classes for so long. */
  readonly ownClassMs: number;
  /** Consecutive attempts without a token. */
  readonly attemptsMax: number;
  /** Attempts that had begun to compute; the limit keeps a request that crashes workers from reaching all of them. */
  readonly startedAttemptsMax: number;
  /** Consecutive; then the request or the model is at fault. */
  readonly internalErrorsMax: number;
}

export const failoverLimits: FailoverLimits = {
  noWorkerMs: 30_000,
  queueMs: 120_000,
  answerMs: 15_000,
  firstTokenMs: 60_000,
  perPromptTokenMs: 20,
  nextTokenMs: 35_000,
  ownClassMs: 10_000,
  attemptsMax: 200,
  startedAttemptsMax: 6,
  internalErrorsMax: 3,
};

/**
 * caller: no worker would answer differently. expert: no rank could compute one, which is not this worker's fault. deadline: the request's
 * time is over. kept: what a rank kept goes no further, and is computed on by a rank that is well. worker: another one may do better.
 */
export type Fault = "caller" | "busy" | "expert" | "deadline" | "kept" | "worker";

const faults: Readonly<Record<string, Fault>> = {
  InvalidRequest: "caller",
  ContextOverflow: "caller",
  KeyReused: "caller",
  QueueFull: "busy",
  Busy: "busy",
  ExpertUnavailable: "expert",
  DeadlineExceeded: "deadline",
  KeptEnded: "kept",
  KeptDiffers: "kept",
};

/** Errors that other workers would most likely repeat. */
export const repeatedFaults: ReadonlySet<string> = new Set(["Internal", "UnusableLogits"]);

export function classify(error: AppError): Fault {
  return faults[error.code] ?? "worker";
}

export function reasonOf(error: AppError): FailoverReason {
  if (error.code === "Silent") return "silent";
  if (error.code === "Draining") return "draining";
  return error.code === "Lost" || error.code === "Unavailable" ? "lost" : "error";
}

export function deadlinePassed(cause: AppError | undefined): AppError {
  return new AppError("The request's deadline passed.", { code: "DeadlineExceeded", cause });
}

const pauseMsLeast = 100;
const pauseMsMost = 2_000;

/** The pause grows and has jitter; `random` is in [0, 1). */
export function pauseMs(pausesBefore: number, random: number): number {
  return Math.min(pauseMsMost, pauseMsLeast * 2 ** pausesBefore) * (0.5 + random / 2);
}

export type Wait = "worker" | "queue" | "expert" | "hold";
type Stage = "asked" | "queued" | "started" | "running";

export class Patience {
  readonly #limits: FailoverLimits;
  readonly #promptTokens: number;
  readonly #now: () => number;
  /** Taking the request restarts its wait. */
  readonly #since = new Map<Wait, number>();
  #holdMs = 0;
  #stage: Stage = "asked";

  constructor(limits: FailoverLimits, promptTokens: number, now: () => number) {
    this.#limits = limits;
    this.#promptTokens = promptTokens;
    this.#now = now;
    this.#since.set("worker", now());
  }

  get computing(): boolean {
    return this.#stage === "started" || this.#stage === "running";
  }

  /** No worker takes the request. A positive `holdMs` allows the wait for a first rank; the normal wait starts after that. */
  held(holdMs: number): void {
    if (holdMs === 0) return void this.#since.delete("hold");
    this.#holdMs = holdMs;
    if (!this.#since.has("hold")) this.#since.set("hold", this.#now());
    this.#since.set("worker", this.#now());
  }

  queued(): void {
    this.#reached("queued");
    if (!this.#since.has("queue")) this.#since.set("queue", this.#now());
  }

  started(): void {
    this.#reached("started");
    this.#since.delete("queue");
  }

  progressed(): void {
    this.#reached("running");
  }

  token(): void {
    this.#reached("running");
    this.#since.delete("expert");
  }

  /** Another rank is asked, as at first. */
  handedOver(): void {
    this.#reached("asked");
  }

  failed(fault: Fault): void {
    if (this.#stage !== "asked") this.#reached("asked");
    if (fault === "expert" && !this.#since.has("expert")) this.#since.set("expert", this.#now());
  }

  over(): Wait | undefined {
    const { noWorkerMs, queueMs } = this.#limits;
    const limits = { worker: noWorkerMs, queue: queueMs, expert: noWorkerMs, hold: this.#holdMs };
    const held = this.#since.has("hold");
    for (const [wait, since] of this.#since) {
      if (!(held && wait === "worker") && this.#now() - since >= limits[wait]) return wait;
    }
    return undefined;
  }

  silence(rank: number): { readonly ms: number; readonly error: () => AppError } {
    const ms = this.#silenceMs();
    if (this.#stage !== "queued") return { ms, error: () => new AppError(`rank ${rank} sent nothing for ${ms} ms`, { code: "Silent" }) };
    return { ms, error: () => new AppError(`waited ${this.#limits.queueMs} ms in queues`, { code: "QueueFull" }) };
  }

  #silenceMs(): number {
    const { answerMs, queueMs, firstTokenMs, perPromptTokenMs, nextTokenMs } = this.#limits;
    if (this.#stage === "asked") return answerMs;
    if (this.#stage === "queued") return Math.max(0, (this.#since.get("queue") ?? 0) + queueMs - this.#now());
    return this.#stage === "started" ? firstTokenMs + perPromptTokenMs * this.#promptTokens : nextTokenMs;
  }

  #reached(stage: Stage): void {
    this.#stage = stage;
    this.#since.set("worker", this.#now());
    this.#since.delete("hold");
  }
}

export async function orSilence<T>(next: Promise<T>, silence: ReturnType<Patience["silence"]>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(silence.error()), silence.ms);
  try {
    return await Promise.race([next, promise]);
  } finally {
    clearTimeout(timer);
    next.catch(() => {});
  }
}
