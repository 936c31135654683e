// Failure detection by silence, the same for peers, workers, pods and ranks of training. Pure: who listens says what was heard and when.

/** Milliseconds. */
export interface FailureLimits {
  /** Between two looks. */
  readonly lookMs: number;
  /** Silence after which a peer that was heard has failed. */
  readonly timeoutMs: number;
  /** The same before it is heard on a connection. */
  readonly connectMs: number;
}

/** For a peer that says something every so many milliseconds. */
export const heartbeatLimits = (everyMs: number): FailureLimits => ({
  lookMs: everyMs / 2,
  timeoutMs: 3 * everyMs,
  connectMs: 4 * everyMs,
});
export const peerHeartbeatMs = 500;
export const podHeartbeatMs = 1_000;
export const peerLimits = heartbeatLimits(peerHeartbeatMs);
export const podLimits = heartbeatLimits(podHeartbeatMs);
export const computingLimits: FailureLimits = { lookMs: 500, timeoutMs: 8_000, connectMs: 8_000 };

/** The adaptive timeout (DECISIONS.md 2). */
const factorMost = 4;
const adaptedForMs = 60_000;
/** Attempts that may wait for one connection, one after another. */
const attemptsPerConnection = 3;

/** One peer, over all its connections. */
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

  /** The peer said something on this connection. */
  get wasHeard(): boolean {
    return this.#wasHeard;
  }

  /** What was heard on others does not count. */
  connect(nowMs: number): void {
    this.disconnect();
    this.#lookedAt = nowMs;
    this.#unheardMs = 0;
    this.#withoutBytesMs = 0;
    this.#receivedBytes = 0;
    this.#suppressedMs = 0;
    this.#timeoutMs = this.#limits.timeoutMs;
  }

  /** The connection is gone; the guard no longer counts the peer. */
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

  /** All bytes of the connection: a change shows life while heartbeats are suppressed. */
  received(bytes: number): void {
    if (bytes !== this.#receivedBytes) this.#withoutBytesMs = 0;
    this.#receivedBytes = bytes;
  }

  /** 0 = none. */
  suppress(ms: number): void {
    this.#suppressedMs = ms;
  }

  /** The peer announced other heartbeats: another timeout for this connection. */
  setTimeout(ms: number): void {
    this.#timeoutMs = ms;
  }

  /** To be called every `lookMs`; returns milliseconds of silence. */
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

/** No peer leaves heartbeats out for longer, whatever it is allowed. */
export const suppressMsMax = 60_000;
/** An answer also tells the clock. */
const answerPart = 0.5;

/** The sending side: which heartbeats a peer may leave out. */
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
