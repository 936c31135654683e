// The attempts at one frame, what they have shown so far, and which rank to ask next: a host of the plan that can, one that asked
// for time when there is no other, the rank that has loaded the expert before, and only then one that loads it on demand. Pure; called
// by frame-run.ts, which gives the time.
import { hash32, successor } from "../../placement/dispatch.ts";

/** The longest pause that a busy host may ask for. */
const busyWaitMaxMs = 1_000;
/** For a host that names no time. */
const busyWaitMs = 50;
/** After so many answers of that kind a frame goes elsewhere. */
const busyAnswersMax = 3;

/** Not before the host wants, and not all senders at once. `random` in 0..1. */
export function busyPauseMs(retryAfterMs: number, random: number): number {
  return Math.min(retryAfterMs > 0 ? retryAfterMs : busyWaitMs, busyWaitMaxMs) * (1 + random / 2);
}

export interface Choice {
  readonly rank: number;
  /** The rank is to load the expert. */
  readonly onDemand: boolean;
}

export interface Question {
  readonly layer: number;
  readonly expert: number;
  readonly self: number;
  /** Usable ranks that the plan names, newest plan first. */
  readonly hosts: readonly number[];
  /** The usable rank that last loaded the expert on demand. */
  readonly lender?: number | undefined;
  /** Usable ranks, this one included. */
  readonly live: readonly number[];
  readonly nowMs: number;
}

/** What was tried, by rank and expert, as a host of the plan and on demand apart. */
export class Attempts {
  readonly #failed = new Set<string>();
  readonly #busy = new Map<number, { answers: number; untilMs: number }>();

  fail({ rank, onDemand }: Choice, experts: Iterable<number>): void {
    for (const expert of experts) this.#failed.add(`${rank}.${expert}.${onDemand}`);
  }

  /** A host that is busy again and again counts as failed in both ways. */
  busy({ rank }: Choice, experts: Iterable<number>, untilMs: number): void {
    const answers = (this.#busy.get(rank)?.answers ?? 0) + 1;
    this.#busy.set(rank, { answers, untilMs });
    if (answers < busyAnswersMax) return;
    for (const onDemand of [false, true]) this.fail({ rank, onDemand }, experts);
  }

  /** 0 = any time. */
  busyUntil(rank: number): number {
    return this.#busy.get(rank)?.untilMs ?? 0;
  }

  /** Hosts load and plans change: a rank that failed may answer now. */
  forget(): void {
    this.#failed.clear();
    this.#busy.clear();
  }

  choose({ layer, expert, self, hosts, lender, live, nowMs }: Question): Choice {
    const able = [...new Set(hosts)].filter((rank) => this.#willing(rank, expert, false));
    const free = able.filter((rank) => this.busyUntil(rank) <= nowMs);
    const pick = free[hash32(self, layer, expert) % Math.max(1, free.length)] ?? this.#firstFree(able);
    if (pick !== undefined) return { rank: pick, onDemand: false };
    // A host that restarted has nothing yet: whoever has stood in for it goes on, else every expert would be waited for twice.
    if (lender !== undefined && this.#willing(lender, expert, false)) return { rank: lender, onDemand: false };
    // A planned host that is up but empty (a restarted one) loads it first of all; else the successor that all sources agree on.
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
