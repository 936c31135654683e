// The sums that the main thread is told of an engine's connections, since a message for each frame would be the wake-up that connections save: for
// metrics, for the log, and which experts were of use. Bounded by the time between two tellings.
import type { PeerCounts } from "./api.ts";

/** Durations and problems that are kept between two tellings. */
const secondsMax = 4_096;
const problemsMax = 16;

export class PeerCounters {
  #sent = { frames: 0, bytes: 0, received: 0, seconds: [] as number[] };
  #used = new Set<number>();
  #served = { frames: 0, experts: new Map<number, Set<number>>() };
  #problems: string[] = [];
  #now = { connections: 0, pending: 0 };

  /** A frame leaves for the rank. */
  used(rank: number): void {
    this.#used.add(rank);
  }

  sent(ms: number, bytes: number, received: number): void {
    this.#sent.frames += 1;
    this.#sent.bytes += bytes;
    this.#sent.received += received;
    if (this.#sent.seconds.length < secondsMax) this.#sent.seconds.push(ms / 1000);
  }

  served(layer: number, pairExperts: Uint32Array): void {
    this.#served.frames += 1;
    const experts = this.#served.experts.get(layer) ?? new Set<number>();
    for (const expert of pairExperts) experts.add(expert);
    this.#served.experts.set(layer, experts);
  }

  problem(message: string): void {
    if (this.#problems.length < problemsMax) this.#problems.push(message);
  }

  /** What is new since the last time; undefined when nothing is. */
  take(connections: number, pending: number): PeerCounts | undefined {
    const same = connections === this.#now.connections && pending === this.#now.pending;
    if (same && this.#sent.frames + this.#served.frames + this.#problems.length + this.#used.size === 0) return undefined;
    const { frames, experts } = this.#served;
    const touched = [...experts].map(([layer, used]) => ({ layer, experts: [...used] }));
    const counts = { connections, pending, sent: this.#sent, used: [...this.#used], served: { frames, touched }, problems: this.#problems };
    this.#now = { connections, pending };
    this.#sent = { frames: 0, bytes: 0, received: 0, seconds: [] };
    this.#used = new Set();
    this.#served = { frames: 0, experts: new Map() };
    this.#problems = [];
    return counts;
  }
}
