// The silence of a peer, as a process may hold it against the peer: its own pauses do not count, and a peer that turned out to live,
// or that is slow to connect, is given more time. Pure; what a silence means is the business of those who listen.

/** A peer that was back within this time was slow and not gone. */
const hiccupMs = 1_500;
const factorMost = 4;
/** Streams that may wait for one connection, one after another. */
const streamsPerConnection = 3;
/** Without another hiccup for so long, a peer has no more time than others. */
const forgottenMs = 60_000;

export class Silence {
  readonly #lookMs: number;
  #lookedAt: number;
  #ms = 0;

  /** It is to be looked at every `lookMs`. */
  constructor(lookMs: number, nowMs: number) {
    this.#lookMs = lookMs;
    this.#lookedAt = nowMs;
  }

  heard(): void {
    this.#ms = 0;
  }

  /** Milliseconds of silence so far. While this process itself stood still it could hear nobody: a late look counts for two. */
  look(nowMs: number): number {
    this.#ms += Math.min(nowMs - this.#lookedAt, 2 * this.#lookMs);
    this.#lookedAt = nowMs;
    return this.#ms;
  }
}

/** The factor by which a peer may be silent longer: on a busy machine it would else be left and taken back again and again. */
export class Indulgence {
  #factor = 1;
  #at = Number.NEGATIVE_INFINITY;
  #unconnected = 0;

  /** A stream ended. True when its connection is to be made anew: not whenever it was never heard, or a slow one would never stand. */
  ended(spoke: boolean): boolean {
    this.#unconnected = spoke ? 0 : this.#unconnected + 1;
    return this.#unconnected % streamsPerConnection === 0;
  }

  factor(nowMs: number): number {
    return nowMs - this.#at < forgottenMs ? this.#factor : 1;
  }

  /** It is back from a silence for which it was left. */
  back(awayMs: number, nowMs: number): void {
    if (awayMs > hiccupMs) return;
    this.#factor = Math.min(factorMost, 2 * this.factor(nowMs));
    this.#at = nowMs;
  }
}
