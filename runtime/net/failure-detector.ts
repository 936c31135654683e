// Failure detection by silence, pure, for all kinds of peers (DECISIONS.md 2).

/** Milliseconds. */
export interface FailureLimits {
  readonly lookMs: number;
  /** The allowed silence of a peer that was heard. */
  readonly timeoutMs: number;
  /** The allowed silence before that. */
  readonly connectMs: number;
}

/** Heartbeats that may be late or lost. */
const heartbeatsMissed = 3;
export const heartbeatLimits = (everyMs: number): FailureLimits => ({
  lookMs: everyMs / 2,
  timeoutMs: heartbeatsMissed * everyMs,
  connectMs: (heartbeatsMissed + 1) * everyMs,
});

// All limits of silence, in milliseconds. The operator watches pods, ranks and gateways watch ranks' main threads.
export const podHeartbeatMs = 1_000;
export const podLimits = heartbeatLimits(podHeartbeatMs);
export const peerHeartbeatMs = 500;
export const peerLimits = heartbeatLimits(peerHeartbeatMs);
/** The timeout of a rank that announces rarer heartbeats. */
export const announcedTimeoutMs = (nextMs: number): number => Math.min(10_000, Math.max(peerLimits.timeoutMs, heartbeatsMissed * nextMs));
/** The limits of a process whose thread may compute for long. */
export const computingLimits: FailureLimits = { lookMs: 500, timeoutMs: 8_000, connectMs: 8_000 };
/** Of engines, whose frames go to other hosts afterwards: pings come after `pingMs` of silence. */
export const engineLimits = { ...computingLimits, lookMs: 250, pingMs: 2_000 } as const;
/** Of bulk reads: without a byte for so long the receiver asks elsewhere; `chunkMs`: the most that one chunk may take to leave. */
export const readLimits = { unitMs: 5_000, kvMs: 2_000, listMs: 5_000, fileMs: 10_000, chunkMs: 60_000 } as const;
/** Pauses before a connection that failed is made anew: doubled each time, from the first to the most. */
export const heartbeatPauses = { firstMs: 250, mostMs: 2_000 } as const;
export const enginePauses = { firstMs: 500, mostMs: 16_000 } as const;
export const pauseAfter = (failures: number, { firstMs, mostMs }: { readonly firstMs: number; readonly mostMs: number }): number =>
  Math.min(firstMs * 2 ** failures, mostMs);
/** HTTP/2 pings of gRPC, 8 s together. Where a detector watches too, `watchedTimeoutMs`: gRPC's timers count a pause of this process. */
export const keepalive = { timeMs: 5_000, timeoutMs: 3_000, watchedTimeoutMs: 60_000 } as const;

/** The adaptive timeout (DECISIONS.md 2). */
const factorMost = 4;
const adaptedForMs = 60_000;
const attemptsPerConnection = 3;

export class FailureDetector {
  readonly #limits: FailureLimits;
  readonly #guard: MassFailureGuard | undefined;
  #lookedAt: number;
  #unheardMs = 0;
  #withoutBytesMs = 0;
  #receivedBytes = 0;
  #suppressedMs = 0;
  #timeoutMs: number;
  #wasHeard = false;
  #factor = 1;
  #adaptedAt = Number.NEGATIVE_INFINITY;
  #unansweredAttempts = 0;
  #isQuiet = false;

  constructor(limits: FailureLimits, nowMs: number, guard?: MassFailureGuard) {
    this.#limits = limits;
    this.#timeoutMs = limits.timeoutMs;
    this.#lookedAt = nowMs;
    this.#guard = guard;
  }

  get wasHeard(): boolean {
    return this.#wasHeard;
  }

  /** What was heard on other connections does not count. */
  connect(nowMs: number): void {
    this.disconnect();
    this.#lookedAt = nowMs;
    this.#unheardMs = 0;
    this.#withoutBytesMs = 0;
    this.#receivedBytes = 0;
    this.#suppressedMs = 0;
    this.#timeoutMs = this.#limits.timeoutMs;
  }

  /** The mass-failure guard no longer counts the peer. */
  disconnect(): void {
    if (this.#wasHeard) this.#guard?.leave(this.#isQuiet);
    this.#wasHeard = false;
    this.#isQuiet = false;
  }

  heard(): void {
    this.#unheardMs = 0;
    if (!this.#wasHeard) this.#guard?.enter();
    this.#wasHeard = true;
  }

  /** The connection's total of bytes; an increase, for which it returns true, shows life while heartbeats are suppressed. */
  received(bytes: number): boolean {
    const more = bytes !== this.#receivedBytes;
    if (more) this.#withoutBytesMs = 0;
    this.#receivedBytes = bytes;
    return more;
  }

  /** 0 = none. */
  suppress(ms: number): void {
    this.#suppressedMs = ms;
  }

  /** The peer announced another heartbeat interval for this connection. */
  setTimeout(ms: number): void {
    this.#timeoutMs = ms;
  }

  /** Call it every `lookMs`; returns milliseconds of silence. */
  look(nowMs: number): number {
    const passedMs = Math.min(nowMs - this.#lookedAt, 2 * this.#limits.lookMs);
    this.#lookedAt = nowMs;
    this.#unheardMs += passedMs;
    this.#withoutBytesMs += passedMs;
    const silentMs = this.#silentMs();
    if (this.#wasHeard && this.#guard) {
      const isQuiet = silentMs > this.#timeoutMs / 2;
      this.#guard.count(Number(isQuiet) - Number(this.#isQuiet));
      this.#isQuiet = isQuiet;
    }
    return silentMs;
  }

  get hasFailed(): boolean {
    return this.#silentMs() >= this.#allowedMs();
  }

  /** True when the next attempt needs a new connection. */
  ended(): boolean {
    this.#unansweredAttempts = this.#wasHeard ? 0 : this.#unansweredAttempts + 1;
    this.disconnect();
    return this.#unansweredAttempts % attemptsPerConnection === 0;
  }

  recovered(awayMs: number, nowMs: number): void {
    if (awayMs > this.#limits.timeoutMs) return;
    this.#factor = Math.min(factorMost, 2 * this.#factorAt(nowMs));
    this.#adaptedAt = nowMs;
  }

  #silentMs(): number {
    return this.#suppressedMs === 0 ? this.#unheardMs : Math.max(this.#withoutBytesMs, this.#unheardMs - this.#suppressedMs);
  }
  #allowedMs(): number {
    if (!this.#wasHeard) return this.#limits.connectMs;
    return this.#timeoutMs * (this.#guard?.isDisrupted ? disruptedFactor : this.#factorAt(this.#lookedAt));
  }
  #factorAt(nowMs: number): number {
    return nowMs - this.#adaptedAt < adaptedForMs ? this.#factor : 1;
  }
}

const quietPart = 0.55;
const guardedPeersLeast = 24;
const disruptedFactor = 5;

/** DECISIONS.md 3. */
export class MassFailureGuard {
  #peers = 0;
  #quiet = 0;

  get isDisrupted(): boolean {
    return this.#peers >= guardedPeersLeast && this.#quiet >= quietPart * this.#peers;
  }

  enter(): void {
    this.#peers += 1;
  }
  leave(isQuiet: boolean): void {
    this.#peers -= 1;
    this.count(-Number(isQuiet));
  }
  count(difference: number): void {
    this.#quiet += difference;
  }
}

export const suppressMsMax = 60_000;
/** The answer also gives the clock. */
const answerPart = 0.5;

/** The sender's side of heartbeat suppression (DECISIONS.md 4). */
export class HeartbeatSuppression {
  #allowedMs = 0;
  #sentAt = Number.NEGATIVE_INFINITY;
  #sentState = "";

  allow(ms: number): void {
    this.#allowedMs = Math.min(ms, suppressMsMax);
  }

  sent(state: string, nowMs: number): void {
    this.#sentAt = nowMs;
    this.#sentState = state;
  }

  canSkip(state: string, nowMs: number, isAnswer = false): boolean {
    return nowMs - this.#sentAt < this.#allowedMs * (isAnswer ? answerPart : 1) && state === this.#sentState;
  }
}
