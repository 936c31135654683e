// The types of one observation, which is gathered once per tick and read-only. The load is in load/load-state.ts, since a tick changes
// it.
import type { MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { RankRole } from "../../crds/roles.ts";
import type { GatewayView, LeavingRank, RankSignals, RebalanceView, WorkerPod, World } from "../deployment/ports.ts";
import type { Forecast } from "../planner/load/forecast.ts";
import type { SpeedRank } from "../planner/load/speeds.ts";
import type { PhaseLoad } from "../planner/load/timing.ts";
import type { ExpectedRank, MeasuredImbalance } from "../planner/load/windows.ts";
import type { ModelShape, RankSpec } from "../planner/policy.ts";
import type { Decision, Judged } from "../planner/replan.ts";
import type { TierLook } from "./load/tier-loads.ts";
import type { BusStatus, Link, MemberState, StoredPlacement } from "./ports.ts";
import type { PlanReport } from "./rollout/proposal.ts";

type LinkReport = Pick<Link, "address" | "description" | "status" | "hosted" | "triedAt" | "downSince" | "lastError" | "clockAheadMs">;

export interface RankView {
  readonly rank: number;
  readonly pod: WorkerPod;
  readonly link: Link | undefined;
  readonly report: LinkReport | undefined;
  readonly leaving: LeavingRank | undefined;
  /** True while its stream works and it runs the model of this deployment. */
  readonly usable: boolean;
  /** True when this process will not come back. */
  readonly lost: boolean;
  readonly mismatch: boolean;
  readonly state: MemberState;
  /** Undefined without roles, and while it does not serve. */
  readonly role?: RankRole | "both";
}

export interface PlacementFacts {
  readonly stored: StoredPlacement | undefined;
  readonly committed: PlacementPlan | undefined;
  /** True when `stored` and `committed` are known to hold; else the recover intent reads them. */
  readonly recovered: boolean;
  readonly report: PlanReport | undefined;
  readonly lastRebalance: NonNullable<RebalanceView["placement"]>["lastRebalance"];
}

export interface LoadSnapshot {
  readonly decision: Decision | undefined;
  readonly measured: MeasuredImbalance | undefined;
  /** The least worst-layer max/mean that memory allows for the forecast. */
  readonly bound: number | undefined;
  readonly phases: readonly PhaseLoad[];
  /** The worst layer's max/mean under the committed plan and the last forecast. */
  readonly predicted: number | undefined;
  readonly judged: Judged | undefined;
  /** Undefined where memory holds all experts. */
  readonly tiers?: TierLook | undefined;
  readonly outlook: Outlook | undefined;
}

export interface Outlook extends Pick<Forecast, "arm" | "error" | "change" | "noiseFloor" | "windows"> {
  /** True when the load has changed suddenly and no plan was judged since. */
  readonly changed: boolean;
}

export interface TelemetryFacts {
  readonly bus: BusStatus | undefined;
  readonly ageMs: number;
  readonly staleAfterMs: number;
  readonly reporting: number;
  readonly expected: number;
  /** Ranks that do not report and are expected for less than `staleAfterMs`. */
  readonly joining: number;
  /** Ranks whose load NATS brings. */
  readonly onNats: number;
  readonly lastSampleMs: number;
  /** Why load messages cannot be authenticated; undefined while there are keys. */
  readonly keyProblem: string | undefined;
  readonly refused: string | undefined;
  /** True when pods of the deployment lately sent more than its quota. */
  readonly overQuota: boolean;
}

export interface Unheld {
  /** (layer, expert) pairs without a live expert replica. */
  readonly unhosted: number;
  /** The number of these that no usable rank is planned to hold. */
  readonly withoutRank: number;
  /** Usable ranks that still load some of the other pairs, ascending. */
  readonly loading: readonly number[];
}

export interface Why {
  readonly reason: string;
  readonly message: string;
}

export interface Observed {
  readonly now: number;
  readonly world: World;
  readonly spec: MoEDeploymentSpec;
  readonly views: readonly RankView[];
  readonly gateways: readonly GatewayView[];
  readonly members: string;
  readonly ranks: readonly RankSpec[];
  readonly hardware: readonly SpeedRank[];
  readonly signals: ReadonlyMap<string, RankSignals>;
  readonly expected: readonly ExpectedRank[];
  readonly shape: ModelShape | undefined;
  /** Experts of a layer that a token chooses; 0 while unknown. */
  readonly topK: number;
  /** The workers run another model or another form of its experts: stored facts are void. */
  readonly otherModel: boolean;
  readonly placement: PlacementFacts;
  readonly plan: PlacementPlan | undefined;
  readonly synced: boolean;
  readonly unheld: Unheld;
  /** Experts that one more loss would leave without a live replica. */
  readonly expertsAtRisk: number;
  /** Resident bytes of experts that no other live rank hosts, by rank. */
  readonly uniqueBytes: ReadonlyMap<number, number>;
  /** Experts with fewer replicas than spec.experts.minExpertReplicas. */
  readonly belowFloor: number;
  readonly telemetry: TelemetryFacts;
  /** True when every worker has described itself or had time to, so that memberships may be pushed. */
  readonly introduced: boolean;
  readonly waitedMs: number;
  /** Unix ms at which each rank was last usable, or at which observation began. */
  readonly usableAt: ReadonlyMap<number, number>;
  readonly startedAt: number;
  /** Ranks of the plan without a usable process for longer than the grace period. */
  readonly gone: ReadonlySet<number>;
  /** The intents, by kind, that must wait, with the reason if there is one to report. */
  readonly paused: ReadonlyMap<string, Why | undefined>;
  /** Ranks that cannot be emptied with the present members, and why. */
  readonly blocked: ReadonlyMap<number, string>;
}
