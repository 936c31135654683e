// The attempts at one frame and the next rank to ask, pure (../../experts/DECISIONS.md 3).
import { hash32, successor } from "../../placement/dispatch.ts";

const busyWaitMaxMs = 1_000;
const busyWaitMs = 50;
/** The pause where frames wait for loads. */
export const loadWaitMs = 500;
/** After so many busy answers a frame goes elsewhere, by default. */
const busyAnswersMax = 3;

/** The pause is at least the requested time, spread over senders. `random` in 0..1. */
export function busyPauseMs(retryAfterMs: number, random: number): number {
  return Math.min(retryAfterMs > 0 ? retryAfterMs : busyWaitMs, busyWaitMaxMs) * (1 + random / 2);
}

export interface Choice {
  readonly rank: number;
  readonly onDemand: boolean;
}

export interface Question {
  readonly layer: number;
  readonly expert: number;
  readonly self: number;
  /** They are of the newest plan; only these load on demand. */
  readonly hosts: readonly number[];
  /** They are of the plan before, and may hold it still. */
  readonly former?: readonly number[];
  readonly lender?: number | undefined;
  /** Usable ranks, this one included. */
  readonly live: readonly number[];
  readonly nowMs: number;
}

/** Failed attempts per rank and expert, for planned hosts and on-demand loads apart. */
export class Attempts {
  readonly #failed = new Set<string>();
  readonly #busy = new Map<number, { answers: number; untilMs: number }>();
  readonly #busyMax: number;

  constructor(busyMax = busyAnswersMax) {
    this.#busyMax = busyMax;
  }

  fail({ rank, onDemand }: Choice, experts: Iterable<number>): void {
    for (const expert of experts) this.#failed.add(`${rank}.${expert}.${onDemand}`);
  }

  /** A host that stays busy counts as failed in both ways. */
  busy({ rank }: Choice, experts: Iterable<number>, untilMs: number): void {
    const answers = (this.#busy.get(rank)?.answers ?? 0) + 1;
    this.#busy.set(rank, { answers, untilMs });
    if (answers < this.#busyMax) return;
    for (const onDemand of [false, true]) this.fail({ rank, onDemand }, experts);
  }

  busyUntil(rank: number): number {
    return this.#busy.get(rank)?.untilMs ?? 0;
  }

  /** A rank that failed may succeed now: hosts load and plans change. */
  forget(): void {
    this.#failed.clear();
    this.#busy.clear();
  }

  choose({ layer, expert, self, hosts, former = [], lender, live, nowMs }: Question): Choice {
    const isAble = (rank: number) => this.#willing(rank, expert, false);
    const isFree = (rank: number) => isAble(rank) && this.busyUntil(rank) <= nowMs;
    const pickOf = (free: readonly number[]) => free[hash32(self, layer, expert) % free.length];
    const pick = pickOf(hosts.filter(isFree)) ?? pickOf(former.filter(isFree)) ?? this.#firstFree([...hosts, ...former].filter(isAble));
    if (pick !== undefined) return { rank: pick, onDemand: false };
    // A restarted host holds nothing yet, so the rank that replaced it goes on.
    if (lender !== undefined && this.#willing(lender, expert, false)) return { rank: lender, onDemand: false };
    // A planned host without experts (a restarted one) loads first; otherwise the successor that all senders agree on.
    const willing = (rank: number) => this.#willing(rank, expert, true);
    return { rank: hosts.find(willing) ?? successor(layer, expert, live.filter(willing)) ?? self, onDemand: true };
  }

  #willing(rank: number, expert: number, onDemand: boolean): boolean {
    return !this.#failed.has(`${rank}.${expert}.${onDemand}`);
  }

  #firstFree(ranks: readonly number[]): number | undefined {
    return ranks.toSorted((a, b) => this.busyUntil(a) - this.busyUntil(b))[0];
  }
}
