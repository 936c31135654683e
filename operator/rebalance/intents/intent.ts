// What a deployment should plan next, from who is there and what is committed. Order: first plan, repair and drain, fill
// new ranks, copies that spec.experts.minCopies asks for, and only then balance. Pure.
import type { PlacementPlan } from "../../../crds/plan.ts";
import { checkMemory } from "../../planner/feasibility.ts";
import type { ModelShape, RankSpec } from "../../planner/policy.ts";
import { type RankView, ranksOf } from "../links/members.ts";

export type Intent =
  | { readonly kind: "wait"; readonly reason: string; readonly message: string }
  | { readonly kind: "first" }
  | { readonly kind: "repair"; readonly lost: readonly number[] }
  | { readonly kind: "drain"; readonly ranks: readonly number[] }
  | { readonly kind: "fill"; readonly ranks: readonly number[] }
  | { readonly kind: "protect" }
  | { readonly kind: "balance" };

/** Without all ranks, the first plan waits this long for the others. */
export const firstPlanWaitMs = 20_000;

export interface IntentInput {
  readonly views: readonly RankView[];
  readonly specs: readonly RankSpec[];
  readonly shape: ModelShape | undefined;
  readonly plan: PlacementPlan | undefined;
  readonly desiredRanks: number;
  /** Since the first worker was described. */
  readonly waitedMs: number;
  /** Ranks of the plan without a usable process for longer than the grace. */
  readonly gone: ReadonlySet<number>;
  /**
   * Whether such a plan may be made now: not while one that failed waits for its next time, and not again for members for whom
   * it was made or found impossible. Then what comes after it in the order is not held up.
   */
  readonly mayTry: (kind: "repair" | "drain" | "fill" | "protect") => boolean;
  /** Experts with fewer copies than the floor asks for, less those for which the present members had no room. */
  readonly unprotected: number;
}

export function nextIntent(input: IntentInput): Intent {
  const { shape, plan, specs } = input;
  if (!shape) return { kind: "wait", reason: "NoWorker", message: "no worker has described itself yet" };
  const active = specs.filter((spec) => spec.state === "active");
  if (!plan) return first(input, shape, active);
  const used = new Set(ranksOf(plan));
  const state = new Map(specs.map((spec) => [spec.rank, spec.state]));
  const limbo = [...used].filter((rank) => state.get(rank) === "dead" && !input.gone.has(rank));
  if (limbo.length > 0)
    return { kind: "wait", reason: "MembershipUnknown", message: `ranks ${limbo.join(", ")} do not answer; not declared lost yet` };
  const lost = [...used].filter((rank) => state.get(rank) === "dead");
  if (lost.length > 0 && active.length > 0 && input.mayTry("repair")) return { kind: "repair", lost };
  const leaving = input.views
    .filter((view) => view.leaving && view.leaving.reason !== "Stop" && used.has(view.rank) && view.usable)
    .map((view) => view.rank);
  if (leaving.length > 0 && active.length > 0 && input.mayTry("drain")) return { kind: "drain", ranks: leaving };
  const empty = active.filter((spec) => !used.has(spec.rank)).map((spec) => spec.rank);
  if (empty.length > 0 && input.mayTry("fill")) return { kind: "fill", ranks: empty };
  if (input.unprotected > 0 && active.length > 1 && input.mayTry("protect")) return { kind: "protect" };
  return { kind: "balance" };
}

function first(input: IntentInput, shape: ModelShape, active: readonly RankSpec[]): Intent {
  if (active.length === 0) return { kind: "wait", reason: "NoWorker", message: "no worker is connected" };
  const fits = checkMemory(shape, active);
  const missing = input.desiredRanks - active.length;
  if (missing > 0 && (input.waitedMs < firstPlanWaitMs || !fits.ok)) {
    return { kind: "wait", reason: "WaitingForRanks", message: `${active.length} of ${input.desiredRanks} ranks are connected` };
  }
  if (!fits.ok) return { kind: "wait", reason: fits.reason, message: fits.message };
  return { kind: "first" };
}
