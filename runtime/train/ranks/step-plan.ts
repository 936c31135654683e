// The plan of a step, the same on every rank: primaries and hosts of each layer's experts from the counts of the last steps. Its hash is in
// every frame. Keeps those counts; calls no clock, so that ranks cannot differ.
import { createHash } from "node:crypto";
import type { DispatchName, rematerializeNames, TrainingPlannerName } from "../../../crds/names.ts";
import type { SpreadName } from "../../placement/training/collectives.ts";
import { trainingPlanner } from "../../placement/training/planners/index.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../placement/training/planners/planner.ts";
import type { Rates } from "../../placement/training/rates.ts";

export interface Fssdp {
  /** A name, or a planner that a bench or a test hands in. */
  readonly planner: TrainingPlannerName | TrainingPlanner;
  readonly dispatch: DispatchName;
  /** Whether copies are dropped after forward, and come again for backward. */
  readonly rematerialize: (typeof rematerializeNames)[number];
  readonly spread: SpreadName;
  /** Copies of a layer that each rank has room for. */
  readonly memorySlots: number;
  /** Copies of a layer that come unnoticed. */
  readonly overlapDegree: number;
  /** Steps whose counts are the forecast. */
  readonly window: number;
  /** Steps between moves of primaries. */
  readonly reshardSteps: number;
  /** Micro-batches of all ranks that pass forward and backward together, a power of two: memory is for these, and sums go primary once for each. */
  readonly microBatchesAtOnce: number;
  readonly seconds: LayerProblem["seconds"];
  /** Ranks measure `seconds` and `overlapDegree` as they go; what is given holds until then. Unset: it holds all the time. */
  readonly measured?: boolean;
}

/** Ranks as planners know them. */
export interface RankFacts {
  /** Node and relative speed of each rank. */
  readonly node: readonly number[];
  readonly speed: readonly number[];
}

type Rows = ArrayLike<number>;

export class Planning {
  readonly #fssdp: Fssdp;
  readonly #facts: RankFacts;
  /** rows[layer][expert] of the last steps. */
  readonly #window: (readonly Rows[])[] = [];
  primaries: readonly (readonly number[])[];
  /** Measured, once it is. */
  rates: Rates | undefined;

  constructor(fssdp: Fssdp, facts: RankFacts, primaries: readonly (readonly number[])[]) {
    this.#fssdp = fssdp;
    this.#facts = facts;
    this.primaries = primaries;
  }

  get late(): boolean {
    return trainingPlanner(this.#fssdp.planner).late;
  }

  /** Rows of a step that is done. */
  add(rows: readonly Rows[]): void {
    this.#window.push(rows);
    if (this.#window.length > this.#fssdp.window) this.#window.shift();
  }

  /** Homes from this step on; those of before where it is no step to move in, or nothing is known. */
  nextPrimaries(step: number): readonly (readonly number[])[] {
    const due = (step - 1) % this.#fssdp.reshardSteps === 0 && this.#window.length > 0;
    const planner = trainingPlanner(this.#fssdp.planner);
    return (
      (due ? planner.primaries?.(this.primaries.map((_, layer) => this.#problem(layer, this.#forecast(layer)))) : undefined) ??
      this.primaries
    );
  }

  /** hosts[expert] of a layer before its counts are known; primaries alone where the planner waits for them, or nothing is known. */
  hostsBefore(layer: number): number[][] {
    const problem = this.#problem(layer, this.#forecast(layer));
    return this.late || this.#window.length === 0 ? primariesOnly(problem) : trainingPlanner(this.#fssdp.planner).hosts(problem);
  }

  /** hosts[expert] of a planner that waits for the step's own counts. */
  hostsAfter(layer: number, rows: Rows): number[][] {
    return trainingPlanner(this.#fssdp.planner).hosts(this.#problem(layer, rows));
  }

  #forecast(layer: number): Rows {
    const sums = new Float64Array(this.primaries[layer]?.length ?? 0);
    for (const step of this.#window) for (let e = 0; e < sums.length; e++) sums[e] = (sums[e] as number) + (step[layer]?.[e] as number);
    return sums.map((sum) => sum / Math.max(1, this.#window.length));
  }

  #problem(layer: number, load: Rows): LayerProblem {
    const { memorySlots, overlapDegree } = this.#fssdp;
    const { overlap, seconds } = this.rates ?? { overlap: overlapDegree, seconds: this.#fssdp.seconds };
    const { node, speed } = this.#facts;
    const ranks = node.length;
    const free = new Array<number>(ranks).fill(memorySlots);
    return { load, primaries: this.primaries[layer] ?? [], ranks, node, speed: Float64Array.from(speed), free, overlap, seconds };
  }
}

/** Of all that decides which frames there are: settings and facts of the ranks, primaries and hosts. */
export function planHash(decides: unknown): string {
  return createHash("sha256").update(JSON.stringify(decides)).digest("hex").slice(0, 16);
}
