// The plan of a step, equal on every rank: primaries and hosts of each layer's experts from the counts of the last steps. Every frame
// has its hash.
import { createHash } from "node:crypto";
import type { DispatchName, rematerializeNames, TrainingPlannerName } from "../../../crds/names.ts";
import { trainingPlanner } from "../../placement/training/planners/index.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../placement/training/planners/planner.ts";
import type { Rates } from "../../placement/training/rates.ts";

export interface Fssdp {
  readonly planner: TrainingPlannerName | TrainingPlanner;
  readonly dispatch: DispatchName;
  /** Whether replicas are dropped after forward and gathered again for backward. */
  readonly rematerialize: (typeof rematerializeNames)[number];
  /** Replicas of a layer that fit on each rank. */
  readonly memorySlots: number;
  /** Replicas of a layer whose transfer is hidden. */
  readonly overlapDegree: number;
  readonly window: number;
  readonly reshardSteps: number;
  /** Micro-batches of all ranks that run together, a power of two. It bounds memory; sums go to the primary once per accumulation step. */
  readonly microBatchesAtOnce: number;
  readonly seconds: LayerProblem["seconds"];
  /** Ranks measure `seconds` and `overlapDegree`; given values hold until then, or always where this is unset. */
  readonly measured?: boolean;
}

export interface RankFacts {
  readonly node: readonly number[];
  readonly speed: readonly number[];
}

type Rows = ArrayLike<number>;

export class Planning {
  readonly #fssdp: Fssdp;
  readonly #facts: RankFacts;
  readonly #window: (readonly Rows[])[] = [];
  primaries: readonly (readonly number[])[];
  rates: Rates | undefined;

  constructor(fssdp: Fssdp, facts: RankFacts, primaries: readonly (readonly number[])[]) {
    this.#fssdp = fssdp;
    this.#facts = facts;
    this.primaries = primaries;
  }

  get late(): boolean {
    return trainingPlanner(this.#fssdp.planner).late;
  }

  add(rows: readonly Rows[]): void {
    this.#window.push(rows);
    if (this.#window.length > this.#fssdp.window) this.#window.shift();
  }

  /** The primaries from this step on; unchanged unless it is a step to move in and counts are known. */
  nextPrimaries(step: number): readonly (readonly number[])[] {
    const due = (step - 1) % this.#fssdp.reshardSteps === 0 && this.#window.length > 0;
    const planner = trainingPlanner(this.#fssdp.planner);
    return (
      (due ? planner.primaries?.(this.primaries.map((_, layer) => this.#problem(layer, this.#forecast(layer)))) : undefined) ??
      this.primaries
    );
  }

  /** hosts[expert] of a layer before its counts are known; only primaries where the planner waits for counts. */
  hostsBefore(layer: number): number[][] {
    const problem = this.#problem(layer, this.#forecast(layer));
    return this.late || this.#window.length === 0 ? primariesOnly(problem) : trainingPlanner(this.#fssdp.planner).hosts(problem);
  }

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

/** A hash of all that decides frames: settings and facts of the ranks, primaries and hosts. */
export function planHash(decides: unknown): string {
  return createHash("sha256").update(JSON.stringify(decides)).digest("hex").slice(0, 16);
}
