// Owns a deployment's stored, committed and recovered placement: the ExpertPlacement object and its epoch, the plan that holds, and the
// result of the last plan.
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { Ref } from "../../kube/kube.ts";
import type { PlacementFacts } from "../observed.ts";
import type { PlacementStore, PlanMember } from "../ports.ts";
import { checkPlanBytes, reasonCharsMax, type StoredPlan } from "./plan-object.ts";
import type { PlanReport } from "./proposal.ts";

export interface PlacementOptions {
  readonly store: Pick<PlacementStore, "read" | "write">;
  readonly ref: Ref;
  readonly ownerUid: string;
}

export interface PlanNote {
  readonly members: ReadonlyMap<number, PlanMember>;
  readonly reason: string;
}

export class Placement {
  readonly #options: PlacementOptions;
  #stored: PlacementFacts["stored"];
  #committed: PlacementFacts["committed"];
  #recovered = false;
  #report: PlacementFacts["report"];
  #lastRebalance: PlacementFacts["lastRebalance"];

  constructor(options: PlacementOptions) {
    this.#options = options;
  }

  get facts(): PlacementFacts {
    return {
      stored: this.#stored,
      committed: this.#committed,
      recovered: this.#recovered,
      report: this.#report,
      lastRebalance: this.#lastRebalance,
    };
  }

  get nextEpoch(): number {
    return Math.max(this.#stored?.spec.epoch ?? 0, this.#committed?.epoch ?? 0) + 1;
  }

  async read(): Promise<PlacementFacts["stored"]> {
    this.#stored = await this.#options.store.read(this.#options.ref);
    return this.#stored;
  }

  /** Writes the plan, which allocates its epoch; throws `Conflict` when another leader was faster. */
  async write(plan: StoredPlan, { members, reason }: PlanNote): Promise<void> {
    const { store, ref, ownerUid } = this.#options;
    const ranks = [...members]
      .map(([rank, member]) => ({ rank, podName: member.podName, podUID: member.podUid }))
      .sort((a, b) => a.rank - b.rank);
    const spec = { ...plan, ranks, ...(reason ? { reason: reason.slice(0, reasonCharsMax) } : {}) };
    checkPlanBytes(spec);
    this.#stored = await store.write(ref, ownerUid, spec, this.#stored);
  }

  /** Sets the plan that holds; undefined when nobody knows one. */
  recoveredAs(committed: PlacementPlan | undefined, report?: PlanReport): void {
    this.#recovered = true;
    this.#committed = committed;
    if (report) this.#report = report;
  }

  /** The recover intent reads the placement anew before anything else is planned. */
  doubt(): void {
    this.#recovered = false;
  }

  /** `committed` is what holds now; undefined when the plan changed nothing. */
  ended(committed: PlacementPlan | undefined, report: PlanReport, lastRebalance: PlacementFacts["lastRebalance"]): void {
    this.#report = report;
    if (committed) this.#committed = committed;
    if (lastRebalance) this.#lastRebalance = lastRebalance;
  }

  forget(): void {
    this.#committed = undefined;
    this.#report = undefined;
  }
}
