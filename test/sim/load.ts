// The counters of simulated engines: a demand that is set from outside, split evenly at the sources, work done where the plan sends
// it, in the time that a rank's speed makes of it.
import type { StepSeconds } from "../../crds/telemetry.ts";
import type { Random } from "../../operator/planner/random.ts";
import type { LoadCounters, PhaseCounters } from "../../runtime/engine/engine.ts";
import { LoadCounter } from "../../runtime/engine/pass/load-counter.ts";
import { expertsIn } from "../../runtime/placement/grid.ts";
import { computeWork } from "../kit/ranks/compute-report.ts";
import type { SimShape } from "./model.ts";
import type { SimWorker } from "./worker.ts";

const batchesPerSecond = 100;

export class SimLoad {
  /** Selections per expert of a layer: the demand that every rank's traffic has. */
  demand: (layer: number) => readonly number[] = () => [];
  /** The time of a second's steps by what it went into, as ranks say it; unset: they do not say. */
  seconds: StepSeconds | undefined;
  /**
   * The speeds at which ranks compute, and the part by which a window's figure is off at most; unset: workers do not tell what it
   * takes.
   */
  rates: { readonly speed: (rank: number) => number; readonly noise: number } | undefined;
  readonly #shape: SimShape;
  readonly #random: Random;

  constructor(shape: SimShape, random: Random) {
    this.#shape = shape;
    this.#random = random;
  }

  /** The counts of this worker in the last second; `sources` is the number of those at work. */
  counters(worker: SimWorker, sources: number): LoadCounters {
    const decode = this.#decode(worker, sources);
    const seconds = this.seconds ? { seconds: this.seconds } : {};
    return { prefill: this.#nothing(), decode: { ...decode, ...seconds } };
  }

  #nothing(): PhaseCounters {
    return new LoadCounter(this.#shape).take().decode;
  }

  #decode(worker: SimWorker, sources: number): PhaseCounters {
    const { layers, experts } = this.#shape;
    const plan = worker.ready ? worker.state.snapshot() : undefined;
    const counts = this.#nothing();
    if (!plan) return counts;
    const { routed, served } = counts;
    for (let l = 0; l < layers; l++) {
      const demand = this.demand(l);
      for (let e = 0; e < expertsIn(this.#shape, l); e++) {
        routed[l * experts + e] = Math.round((demand[e] ?? 0) / sources);
        const at = plan.layers[l]?.hosts[e]?.indexOf(worker.rank) ?? -1;
        served[l * experts + e] = at < 0 ? 0 : Math.round(((demand[e] ?? 0) * (plan.layers[l]?.weights[e]?.[at] ?? 0)) / 1000);
      }
    }
    const rows = served.reduce((a, b) => a + b, 0) / batchesPerSecond;
    if (!this.rates || rows === 0) return counts;
    const off = 1 + this.rates.noise * (2 * this.#random.next() - 1);
    const speed = this.rates.speed(worker.rank);
    return { ...counts, compute: computeWork({ batches: batchesPerSecond, rows, experts, speed, off }, this.#random.next) };
  }
}
