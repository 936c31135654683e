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

/** The limits for a peer that says something every so many milliseconds, or answers when it is asked then. */
export const heartbeatLimits = (everyMs: number): FailureLimits => ({
  lookMs: everyMs / 2,
  timeoutMs: 3 * everyMs,
  connectMs: 4 * everyMs,
});
export const peerHeartbeatMs = 500;
export const podHeartbeatMs = 1_000;
export const peerLimits = heartbeatLimits(peerHeartbeatMs);
export const podLimits = heartbeatLimits(podHeartbeatMs);
/** A thread that computes answers nobody until it comes to an end. */
export const computingLimits: FailureLimits = { lookMs: 500, timeoutMs: 8_000, connectMs: 8_000 };

/** The adaptive timeout: each recovery within the timeout doubles it, up to this factor, for so long. */
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

  /** A connection is being made: what was heard on others does not count. */
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

  /** All bytes that came on the connection so far. More or fewer than before are a sign of life while heartbeats are suppressed. */
  received(bytes: number): void {
    if (bytes !== this.#receivedBytes) this.#withoutBytesMs = 0;
    this.#receivedBytes = bytes;
  }

  /** The peer may leave out heartbeats for so long; 0 = it may not. */
  suppress(ms: number): void {
    this.#suppressedMs = ms;
  }

  /** The peer announced other heartbeats: another timeout for this connection. */
  setTimeout(ms: number): void {
    this.#timeoutMs = ms;
  }

  /** To be called every `lookMs`: milliseconds of silence. A late look counts for two, since this process heard nobody meanwhile. */
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

  /** The silence of the last look is longer than the peer is allowed. */
  get hasFailed(): boolean {
    return this.#silentMs() >= this.#allowedMs();
  }

  /** A connection ended; true when the next attempt needs a new one. A connection that is being made outlives two attempts. */
  ended(): boolean {
    this.#unansweredAttempts = this.#wasHeard ? 0 : this.#unansweredAttempts + 1;
    this.disconnect();
    return this.#unansweredAttempts % attemptsPerConnection === 0;
  }

  /** The peer is back from a silence for which it counted as failed. */
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

/** The part of the peers that has to be quiet; of fewer peers than that, most may be on one node. */
const quietPart = 0.55;
const guardedPeersLeast = 24;
/** While most peers are quiet, each may be so many times as long. */
const disruptedFactor = 5;

/** Counts the peers of a process that are quiet at the same time: where most are, this process or its network is cut off. */
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
/** A ping is answered after this part of that time, since an answer also tells the clock. */
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

  /** True when a heartbeat with this state may be left out, or the answer to a ping. */
  canSkip(state: string, nowMs: number, isAnswer = false): boolean {
    return nowMs - this.#sentAt < this.#allowedMs * (isAnswer ? answerPart : 1) && state === this.#sentState;
  }
}
