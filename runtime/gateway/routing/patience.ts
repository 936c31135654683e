// The patience of a request: how long it waits, and for what: a worker that takes it, a KV slot in a worker's queue, an expert that
// some rank can compute, the next sign of life. Each wait has its own limit. Whose fault an error is, and so what follows from it,
// is here too. Pure but for its own state; used by failover.ts, knows no worker.
import { AppError } from "../../../crds/common.ts";

export interface FailoverLimits {
  /** No worker takes the request, or no rank can compute an expert it needs, for longer than this: it fails. Covers the reload
   *  of a lost expert or a replaced pod. */
  readonly noWorkerMs: number;
  /** Milliseconds in the queues of workers, waiting for a KV slot, all workers together: then the client is told to come again. */
  readonly queueMs: number;
  /** Milliseconds from asking a worker to its first event, which comes at once; below noWorkerMs, so that there is time for another. */
  readonly answerMs: number;
  /** Milliseconds from the KV slot to the first token: this, and per prompt token what a slow prefill takes. */
  readonly firstTokenMs: number;
  readonly perPromptTokenMs: number;
  /** Milliseconds between two tokens. Workers that are gone show much earlier (life-watch.ts); this finds engines that hang. */
  readonly nextTokenMs: number;
  /** Milliseconds for which full workers of the class that computed a request are asked again before one of another class is. */
  readonly ownClassMs: number;
  /** Attempts in a row that brought no token. */
  readonly attemptsMax: number;
  /** Attempts of these that a worker had begun to compute: a request that ends workers must not meet them all. */
  readonly startedAttemptsMax: number;
  /** Internal errors or unusable logits in a row: then it is the request, or the model. */
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

/** caller: no worker would answer differently. busy: this one is full. expert: no rank could compute an expert, which says
 *  nothing of the worker. deadline: the request's time is over. worker: another one may do better, and this one is left alone. */
export type Fault = "caller" | "busy" | "expert" | "deadline" | "worker";

const faults: Readonly<Record<string, Fault>> = {
  InvalidRequest: "caller",
  ContextOverflow: "caller",
  QueueFull: "busy",
  Busy: "busy",
  ExpertUnavailable: "expert",
  DeadlineExceeded: "deadline",
};

/** The errors of a worker that others would most likely give too; `internalErrorsMax` of them in a row are the request's end. */
export const repeatedFaults: ReadonlySet<string> = new Set(["Internal", "UnusableLogits"]);

export function classify(error: AppError): Fault {
  return faults[error.code] ?? "worker";
}

const pauseMsLeast = 100;
const pauseMsMost = 2_000;

/** The pause before a full worker is asked again: longer each time and never the same for two, so that those who wait for it do not come
 *  all at once. `random` is in [0, 1). */
export function pauseMs(pausesBefore: number, random: number): number {
  return Math.min(pauseMsMost, pauseMsLeast * 2 ** pausesBefore) * (0.5 + random / 2);
}

export type Wait = "worker" | "queue" | "expert" | "hold";
/** The point that the running attempt has come to. */
type Stage = "asked" | "queued" | "started" | "running";

export class Patience {
  readonly #limits: FailoverLimits;
  readonly #promptTokens: number;
  readonly #now: () => number;
  /** The time since when the request waits for this. A worker is waited for all the time; whatever takes the request begins it anew. */
  readonly #since = new Map<Wait, number>();
  #holdMs = 0;
  #stage: Stage = "asked";

  constructor(limits: FailoverLimits, promptTokens: number, now: () => number) {
    this.#limits = limits;
    this.#promptTokens = promptTokens;
    this.#now = now;
    this.#since.set("worker", now());
  }

  /** True when the worker had begun to compute. */
  get computing(): boolean {
    return this.#stage === "started" || this.#stage === "running";
  }

  /**
   * No worker takes the request now. It may wait so long for the first rank of a deployment that was scaled to zero, if `holdMs` is not 0,
   * and then for a worker as long as any request: the rank that has just come is not to find it out of patience.
   */
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

  /** Replayed tokens: signs of life, but nothing new. */
  progressed(): void {
    this.#reached("running");
  }

  token(): void {
    this.#reached("running");
    this.#since.delete("expert");
  }

  /** The attempt ended with this. */
  failed(fault: Fault): void {
    if (this.#stage !== "asked") this.#reached("asked");
    if (fault === "expert" && !this.#since.has("expert")) this.#since.set("expert", this.#now());
  }

  /** The wait that has lasted too long; undefined while none has. */
  over(): Wait | undefined {
    const { noWorkerMs, queueMs } = this.#limits;
    const limits = { worker: noWorkerMs, queue: queueMs, expert: noWorkerMs, hold: this.#holdMs };
    const held = this.#since.has("hold");
    for (const [wait, since] of this.#since) {
      if (!(held && wait === "worker") && this.#now() - since >= limits[wait]) return wait;
    }
    return undefined;
  }

  /** The time that the next event may take, and the error when it does not come. */
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
