// The one owner of what is stored, committed and recovered of a deployment: the ExpertPlacement object and its epoch, the plan that
// holds, and the end that the last plan came to. Recovery, rollout and loop tell it; all others read its facts. It makes and moves nothing.
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { Ref } from "../../kube/kube.ts";
import type { PlacementFacts } from "../observed.ts";
import type { PlacementStore, PlanMember } from "../ports.ts";
import { reasonCharsMax, type StoredPlan } from "./plan-object.ts";
import type { PlanReport } from "./proposal.ts";

export interface PlacementOptions {
  readonly store: Pick<PlacementStore, "read" | "write">;
  readonly ref: Ref;
  readonly ownerUid: string;
}

/** What is written beside a plan. */
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

  /** Of the next plan: above everything that was stored or is committed. */
  get nextEpoch(): number {
    return Math.max(this.#stored?.spec.epoch ?? 0, this.#committed?.epoch ?? 0) + 1;
  }

  async read(): Promise<PlacementFacts["stored"]> {
    this.#stored = await this.#options.store.read(this.#options.ref);
    return this.#stored;
  }

  /** Allocates the plan's epoch: throws `Conflict` when another leader was faster. */
  async write(plan: StoredPlan, { members, reason }: PlanNote): Promise<void> {
    const { store, ref, ownerUid } = this.#options;
    const ranks = [...members]
      .map(([rank, member]) => ({ rank, podName: member.podName, podUID: member.podUid }))
      .sort((a, b) => a.rank - b.rank);
    const spec = { ...plan, ranks, ...(reason ? { reason: reason.slice(0, reasonCharsMax) } : {}) };
    this.#stored = await store.write(ref, ownerUid, spec, this.#stored);
  }

  /** What holds is known, as far as anybody remembers a plan. */
  recoveredAs(committed: PlacementPlan | undefined, report?: PlanReport): void {
    this.#recovered = true;
    this.#committed = committed;
    if (report) this.#report = report;
  }

  /** What holds is in doubt: it is found out anew before anything else is planned. */
  doubt(): void {
    this.#recovered = false;
  }

  /** A plan has come to its end. `committed`: what holds now, where the plan has changed it. */
  ended(committed: PlacementPlan | undefined, report: PlanReport, lastRebalance: PlacementFacts["lastRebalance"]): void {
    this.#report = report;
    if (committed) this.#committed = committed;
    if (lastRebalance) this.#lastRebalance = lastRebalance;
  }

  /** The world runs another model: nothing of the old one holds. The object stays known, since epochs go on from it. */
  forget(): void {
    this.#committed = undefined;
    this.#report = undefined;
  }
}
