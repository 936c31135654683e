// Events and counts of decisions: new reasons why nothing moves, held back recommendations, and failed plans.
import { AppError } from "../../../crds/common.ts";
import type { LayerPlan } from "../../../crds/plan.ts";
import type { Metrics } from "../../../runtime/observe/runtime-metrics.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import type { World } from "../../deployment/ports.ts";
import type { Decision } from "../../planner/replan.ts";

/** Each recurring reason, such as Balanced, is reported at most once in this time. */
const repeatMs = 10 * 60_000;
export const recommendedMax = 256;

/** Decides which reasons are news: one that differs from the last and was not reported recently. */
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
  recommended: readonly string[] = [];
  readonly #ports: DecisionPorts;
  readonly #reasons = new HoldReasons();

  constructor(ports: DecisionPorts) {
    this.#ports = ports;
  }

  held({ reason, message }: Decision, world: World, now: number): void {
    this.#ports.metrics.add("enodia_rebalances_total", 1, { ...labelsOf(world), result: "held", reason });
    if (this.#reasons.isNews(reason, now) && reason !== "Recommended")
      this.#ports.event(world, "Normal", "RebalanceHeld", `${reason}: ${message}`);
  }

  recommend(message: string, world: World, before: readonly LayerPlan[], after: readonly LayerPlan[]): void {
    const { moves } = diffPlans(before, after, () => 0);
    this.recommended = moves.slice(0, recommendedMax).map(({ layer, expert, rank }) => `${layer}/${expert} -> ${rank}`);
    this.#ports.event(world, "Normal", "RebalanceRecommended", message);
  }

  acted(): void {
    this.#reasons.clear();
  }

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
