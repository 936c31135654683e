// How far experts are from the copies that spec.experts.minCopies asks for, and the plan that brings them nearer. Remembers
// for which the present members had no room, so that these are not tried again and again. No I/O.
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import { belowFloor, withFloor } from "../../planner/copies.ts";
import { schedulable } from "../../planner/index.ts";
import { type PlanInput, unlimited } from "../../planner/policy.ts";

/** Copies that one plan adds: what comes up meanwhile does not wait for all of them. */
export const protectMovesMax = 1024;

export interface Protected {
  readonly layers: readonly LayerPlan[];
  readonly added: number;
  /** Experts that stay below the floor for want of room; 0 while plans bring it nearer. */
  readonly missing: number;
}

export class Protection {
  /** Experts for which the members of this key had no room. */
  private roomless = { key: "", count: 0 };
  /** The last count, and of which plan and members: it is asked for at every tick. */
  private counted: { plan: PlacementPlan; key: string; below: number } | undefined;

  /** Experts below the floor for which there may be room. `key` stands for the members and the floor. */
  open(plan: PlacementPlan, key: string, input: () => PlanInput): number {
    if (this.counted?.plan !== plan || this.counted.key !== key) this.counted = { plan, key, below: belowFloor(input(), plan.layers) };
    return Math.max(0, this.counted.below - (this.roomless.key === key ? this.roomless.count : 0));
  }

  /** The next step towards the floor, whatever the move budget of the input says. */
  plan(input: PlanInput, layers: readonly LayerPlan[], key: string): Protected {
    const bounded = { ...input, budget: { ...unlimited, maxMoves: protectMovesMax } };
    const floored = withFloor(bounded, layers);
    const next = schedulable(bounded, floored.layers);
    const below = belowFloor(bounded, next);
    // What this plan leaves, for its length or for want of room beside the old copies, the next one may bring.
    const missing = below < belowFloor(bounded, layers) ? 0 : below;
    this.roomless = { key, count: missing };
    return { layers: next, added: floored.added, missing };
  }
}
