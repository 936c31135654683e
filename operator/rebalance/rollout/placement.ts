// The one owner of what is stored, committed and recovered of a deployment: the ExpertPlacement object and its epoch, the plan that
// holds, and the end that the last plan came to. Recovery, rollout and loop tell it; all others read its facts. It makes and moves nothing.
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

/** The members and the reason that are written beside a plan. */
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

  /** The epoch of the next plan, above everything that was stored or is committed. */
  get nextEpoch(): number {
    return Math.max(this.#stored?.spec.epoch ?? 0, this.#committed?.epoch ?? 0) + 1;
  }

  async read(): Promise<PlacementFacts["stored"]> {
    this.#stored = await this.#options.store.read(this.#options.ref);
    return this.#stored;
  }

  /** Writes the plan and with that allocates its epoch; throws `Conflict` when another leader was faster. */
  async write(plan: StoredPlan, { members, reason }: PlanNote): Promise<void> {
    const { store, ref, ownerUid } = this.#options;
    const ranks = [...members]
      .map(([rank, member]) => ({ rank, podName: member.podName, podUID: member.podUid }))
      .sort((a, b) => a.rank - b.rank);
    const spec = { ...plan, ranks, ...(reason ? { reason: reason.slice(0, reasonCharsMax) } : {}) };
    checkPlanBytes(spec);
    this.#stored = await store.write(ref, ownerUid, spec, this.#stored);
  }

  /** Takes note of the plan that holds; undefined when nobody remembers one. */
  recoveredAs(committed: PlacementPlan | undefined, report?: PlanReport): void {
    this.#recovered = true;
    this.#committed = committed;
    if (report) this.#report = report;
  }

  /** Takes note that what holds is in doubt: it is found out anew before anything else is planned. */
  doubt(): void {
    this.#recovered = false;
  }

  /** Takes note of the end of a plan. `committed` is what holds now; undefined when the plan has changed nothing. */
  ended(committed: PlacementPlan | undefined, report: PlanReport, lastRebalance: PlacementFacts["lastRebalance"]): void {
    this.#report = report;
    if (committed) this.#committed = committed;
    if (lastRebalance) this.#lastRebalance = lastRebalance;
  }

  /** Forgets the plan, since the workers run another model. The object stays known: epochs go on from it. */
  forget(): void {
    this.#committed = undefined;
    this.#report = undefined;
  }
}
