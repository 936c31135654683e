// The order in which a deployment stops where another serves its clients next, a stand-in or who it stood in for: ranks serve on until the
// gateways have ended, since clients keep connections to these and hear of another place with their last answer.
import { labels } from "../../crds/common.ts";
import type { Step } from "./core/pod-actions.ts";
import type { Snapshot } from "./core/snapshot.ts";

/** Gateways have a minute to end what came to them; ranks wait no longer than this. */
export const gatewaysMs = 75_000;

export class GatewaysFirst {
  readonly #ticks: () => number;
  /** Since when gateways are waited for, by uid. */
  readonly #since = new Map<string, number>();

  constructor(ticks: () => number) {
    this.#ticks = ticks;
  }

  /** The step without stops of ranks while gateways of theirs are there. */
  held(step: Step, { deployment, standIn }: Snapshot, gateways: number): Step {
    const { uid, labels: marks } = deployment.metadata;
    const elsewhere = standIn?.front === "StandIn" || marks?.[labels.standsInFor] !== undefined;
    if (!elsewhere || !deployment.spec.suspend || gateways === 0) {
      this.#since.delete(uid);
      return step;
    }
    const since = this.#since.get(uid) ?? this.#ticks();
    this.#since.set(uid, since);
    const leftMs = since + gatewaysMs - this.#ticks();
    if (leftMs <= 0) return step;
    const actions = step.actions.filter((action) => action.type !== "mark" || action.reason !== "Stop");
    return { ...step, actions, againInMs: Math.min(leftMs, step.againInMs ?? leftMs) };
  }

  forget(uid: string): void {
    this.#since.delete(uid);
  }
}
