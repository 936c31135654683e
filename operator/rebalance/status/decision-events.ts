// The events and counts of decisions: the reason why nothing moves, when it is a new one; a plan that mode Recommend holds back; a plan
// that could not be made. Intents and loop call it; the rollout tells of plans that are carried out.
import { AppError } from "../../../crds/common.ts";
import type { LayerPlan } from "../../../crds/plan.ts";
import type { Metrics } from "../../../runtime/observe/metrics.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import type { World } from "../../deployment/ports.ts";
import type { Decision } from "../../planner/decide.ts";

/** Reasons that come and go, such as Balanced and WithinNoise, are each told at most once in this time. */
const repeatMs = 10 * 60_000;
/** Moves named in a recommendation; a longer one is cut. */
export const recommendedMax = 256;

/**
 * The reasons not to move that were told. One is told when it is another than the last and was not told lately; the decision of every
 * window is in the status and the metrics.
 */
export class HoldReasons {
  #last: Decision["reason"] | undefined;
  readonly #reportedAt = new Map<Decision["reason"], number>();

  isNews(reason: Decision["reason"], now: number): boolean {
    const same = reason === this.#last;
    this.#last = reason;
    const at = this.#reportedAt.get(reason);
    if (same || (at !== undefined && now - at < repeatMs)) return false;
    this.#reportedAt.set(reason, now);
    return true;
  }

  clear(): void {
    this.#last = undefined;
    this.#reportedAt.clear();
  }
}

export interface DecisionPorts {
  readonly metrics: Pick<Metrics<"operator">, "add">;
  event(world: World, type: "Normal" | "Warning", reason: string, message: string): void;
}

export class DecisionEvents {
  /** Moves of the plan that mode Recommend holds back. */
  recommended: readonly string[] = [];
  readonly #ports: DecisionPorts;
  readonly #reasons = new HoldReasons();

  constructor(ports: DecisionPorts) {
    this.#ports = ports;
  }

  /** Counts a decision that nothing moves, and tells its reason if that is new. */
  held({ reason, message }: Decision, world: World, now: number): void {
    this.#ports.metrics.add("enodia_rebalances_total", 1, { ...labelsOf(world), result: "held", reason });
    // A recommendation has an event of its own, with its moves.
    if (this.#reasons.isNews(reason, now) && reason !== "Recommended")
      this.#ports.event(world, "Normal", "RebalanceHeld", `${reason}: ${message}`);
  }

  recommend(message: string, world: World, before: readonly LayerPlan[], after: readonly LayerPlan[]): void {
    const { moves } = diffPlans(before, after, () => 0);
    this.recommended = moves.slice(0, recommendedMax).map(({ layer, expert, rank }) => `${layer}/${expert} -> ${rank}`);
    this.#ports.event(world, "Normal", "RebalanceRecommended", message);
  }

  /** Takes note that a plan is carried out: whatever reason holds the next one up is told again. */
  acted(): void {
    this.#reasons.clear();
  }

  /** Counts and tells that no plan could be made; returns the message. */
  failed(kind: string, caught: unknown, world: World): string {
    const error = AppError.from(caught);
    const message = `${kind}: ${error.code}: ${error.message}`;
    this.#reasons.clear();
    this.#ports.metrics.add("enodia_rebalances_total", 1, { ...labelsOf(world), result: "failed", reason: error.code });
    this.#ports.event(world, "Warning", "PlanFailed", message);
    return message;
  }
}

function labelsOf({ ref }: World) {
  return { namespace: ref.namespace, deployment: ref.name };
}
