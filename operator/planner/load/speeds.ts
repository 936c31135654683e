// The relative speed of each rank: its device's first measurement, then its measured work (throughput.ts). A speed changes only when
// the measurement clearly differs.
import type { ComputeWork, LoadWindow } from "../../../crds/telemetry.ts";
import { median, Throughput, type Work } from "./throughput.ts";

export interface SpeedRank {
  readonly bootId: string;
  /** The hardware name; measurements on other hardware do not apply. */
  readonly hardware: string;
  /** The device kind. Ranks of a kind on the cores of one machine are measured as one. */
  readonly device: string;
  /** Relative to the median rank, before any work was measured. */
  readonly prior: number;
}

/** Speeds closer than 10% are equal. */
const deadBand = Math.log(1.1);
/** Ratios closer than this many standard errors are equal too. */
const errorsMin = 2;
const windowsMin = 3;
/** The first measurement counts as much as this many windows. */
const priorWindows = 2;
const ratioMax = 16;

export class Speeds {
  readonly #throughput = new Throughput();
  readonly #inForce = new Map<string, number>();
  readonly #seeds = new Map<string, number>();
  readonly #machines = new Map<string, string>();
  readonly #pending = new Map<string, LoadWindow[]>();

  /** The speed over the median rank's; `prior` while no other is in effect. */
  of({ hardware, prior }: Pick<SpeedRank, "hardware" | "prior">): number {
    const log = this.#inForce.get(hardware);
    return log === undefined ? prior : Math.exp(log);
  }

  /** Takes a former leader's ratio, which holds until work is measured. */
  seed(hardware: string, ratio: number): void {
    if (!(ratio > 0) || this.#inForce.has(hardware)) return;
    const log = bounded(Math.log(ratio));
    this.#seeds.set(hardware, log);
    this.#inForce.set(hardware, log);
  }

  take(window: LoadWindow): void {
    if (!window.compute) return;
    const taken = this.#pending.get(window.bootId);
    if (taken) taken.push(window);
    else this.#pending.set(window.bootId, [window]);
  }

  drop(): void {
    this.#pending.clear();
    this.#throughput.drop();
  }

  close(ranks: readonly SpeedRank[]): void {
    const there = new Set(ranks.map(({ hardware }) => hardware));
    for (const map of [this.#inForce, this.#seeds, this.#machines]) for (const key of map.keys()) if (!there.has(key)) map.delete(key);
    for (const rank of ranks) {
      const windows = this.#pending.get(rank.bootId) ?? [];
      const machine = windows[0]?.compute?.machine;
      if (machine !== undefined) this.#machines.set(rank.hardware, machine);
      for (const { compute } of windows) if (compute) this.#throughput.add(this.#poolOf(rank), workOf(compute));
    }
    this.#pending.clear();
    if (this.#throughput.close([...new Set(ranks.map((rank) => this.#poolOf(rank)))])) this.#judge(ranks);
  }

  #judge(ranks: readonly SpeedRank[]): void {
    const found = ranks.flatMap((rank) => {
      const measured = this.#throughput.of(this.#poolOf(rank));
      const prior = this.#seeds.get(rank.hardware) ?? Math.log(rank.prior);
      return measured ? [{ rank, measured, prior }] : [];
    });
    // Speeds are relative: reporting ranks keep their median beside those that do not report.
    const shift = median(found.map(({ measured, prior }) => prior - measured.log));
    for (const { rank, measured, prior } of found) {
      if (measured.windows < windowsMin) continue;
      const weight = measured.windows / (measured.windows + priorWindows);
      const log = bounded(weight * (measured.log + shift) + (1 - weight) * prior);
      const band = Math.max(deadBand, errorsMin * weight * measured.error);
      const now = this.#inForce.get(rank.hardware) ?? Math.log(rank.prior);
      if (Math.abs(log - now) > band) this.#inForce.set(rank.hardware, Math.abs(log) <= band ? 0 : log);
    }
  }

  /** The cores that a rank shares with others of its machine, which count as equally fast. */
  #poolOf({ hardware, device }: SpeedRank): string {
    const machine = this.#machines.get(hardware);
    return machine === undefined ? hardware : `${device} on ${machine}`;
  }
}

function workOf({ runs, calls, rows, micros, squares, times }: ComputeWork): Work {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = squares;
  return { amount: [runs, calls, rows], micros, squares: [a, b, c, b, d, e, c, e, f], times };
}

const bounded = (log: number): number => Math.max(-Math.log(ratioMax), Math.min(Math.log(ratioMax), log));
