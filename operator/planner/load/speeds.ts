// The relative speed of each rank as plans use it: its device's measurement at the start, then what its work took
// (throughput.ts). A figure in force stays until what is measured is clearly another, so that plans do not follow noise. Pure.
import type { ComputeWork, LoadWindow } from "../../../crds/telemetry.ts";
import { median, Throughput, type Work } from "./throughput.ts";

/** A rank as far as its speed is concerned. */
export interface SpeedRank {
  readonly bootId: string;
  /** The name of the hardware that it runs on: a measurement on one is not true of another. */
  readonly hardware: string;
  /** Its kind of device: ranks of a kind that compute on the cores of one machine are measured as one. */
  readonly device: string;
  /** Speed of its kind of device over the median rank's, before any work was measured. */
  readonly prior: number;
}

/** Speeds closer to each other than this are the same: 10%. */
const deadBand = Math.log(1.1);
/** Ratios closer than so many standard errors are equal, too. */
const errorsMin = 2;
/** Windows of work before which nothing is concluded: how far they lie apart is not known either. */
const windowsMin = 3;
/** The measurement at the start counts as much as so many windows. */
const priorWindows = 2;
/** No rank counts as more than so many times faster or slower than the median one. */
const ratioMax = 16;

export class Speeds {
  readonly #throughput = new Throughput();
  /** Logarithms of the ratios in force, by hardware. */
  readonly #inForce = new Map<string, number>();
  /** Logarithms of the ratios that a former leader had found, by hardware. */
  readonly #seeds = new Map<string, number>();
  /** Machines on whose cores ranks compute, by hardware. */
  readonly #machines = new Map<string, string>();
  /** Messages of the open window, by process. */
  readonly #pending = new Map<string, LoadWindow[]>();

  /** The speed over the median rank's; `prior` while no other is in force. */
  of({ hardware, prior }: Pick<SpeedRank, "hardware" | "prior">): number {
    const log = this.#inForce.get(hardware);
    return log === undefined ? prior : Math.exp(log);
  }

  /** Takes the ratio of a former leader, which is in force until work says otherwise. Later than that it teaches nothing. */
  seed(hardware: string, ratio: number): void {
    if (!(ratio > 0) || this.#inForce.has(hardware)) return;
    const log = bounded(Math.log(ratio));
    this.#seeds.set(hardware, log);
    this.#inForce.set(hardware, log);
  }

  /** An accepted message. A worker that does not say what its work took is of unknown speed, not slow. */
  take(window: LoadWindow): void {
    if (!window.compute) return;
    const taken = this.#pending.get(window.bootId);
    if (taken) taken.push(window);
    else this.#pending.set(window.bootId, [window]);
  }

  /** Throws away what came since the last close, which was measured while experts moved. */
  drop(): void {
    this.#pending.clear();
    this.#throughput.drop();
  }

  /** Ends a window of these ranks; what others ran on is forgotten. */
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
    // Speeds are relative: the median of the ranks that tell is what it was, beside those that do not.
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

  /**
   * The pool of cores that a rank computes on: what one takes of a machine's cores the others lack, so they are as fast as all
   * together.
   */
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
