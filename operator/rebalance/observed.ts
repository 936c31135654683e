// The value of one observation, gathered once per tick and written by nobody. The load is apart, since a tick's decision changes it:
// load/load-state.ts. Types only.
import type { MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { GatewayView, LeavingRank, RankSignals, RebalanceView, WorkerPod, World } from "../deployment/ports.ts";
import type { Decision, Judged } from "../planner/decide.ts";
import type { Forecast } from "../planner/load/forecast.ts";
import type { PhaseLoad } from "../planner/load/phases.ts";
import type { SpeedRank } from "../planner/load/speeds.ts";
import type { ExpectedRank, MeasuredImbalance } from "../planner/load/windows.ts";
import type { ModelShape, RankSpec } from "../planner/policy.ts";
import type { BusStatus, Link, MemberState, StoredPlacement } from "./ports.ts";
import type { PlanReport } from "./rollout/proposal.ts";

/** The last report of one pod's link. */
type LinkReport = Pick<Link, "address" | "description" | "status" | "hosted" | "triedAt" | "downSince" | "lastError" | "clockAheadMs">;

export interface RankView {
  readonly rank: number;
  readonly pod: WorkerPod;
  /** The link for calls to the pod; facts are read from `report`. */
  readonly link: Link | undefined;
  readonly report: LinkReport | undefined;
  readonly leaving: LeavingRank | undefined;
  /** True while its stream works and it runs the model of this deployment. */
  readonly usable: boolean;
  /** True when nothing more is to be expected of this process. */
  readonly lost: boolean;
  readonly mismatch: boolean;
  readonly state: MemberState;
}

/** The known facts of the plan that holds; rollout/placement.ts owns them. */
export interface PlacementFacts {
  readonly stored: StoredPlacement | undefined;
  readonly committed: PlacementPlan | undefined;
  /** True when `stored` and `committed` are what holds; else the recover intent finds out anew. */
  readonly recovered: boolean;
  /** The report of the last plan that ended. */
  readonly report: PlanReport | undefined;
  readonly lastRebalance: NonNullable<RebalanceView["placement"]>["lastRebalance"];
}

/** The load and what was last decided about it; load/load-state.ts keeps it. */
export interface LoadSnapshot {
  readonly decision: Decision | undefined;
  readonly measured: MeasuredImbalance | undefined;
  /** The least worst-layer max/mean that memory allows for the forecast. */
  readonly bound: number | undefined;
  /** The last window's load by phase, under the committed plan. */
  readonly phases: readonly PhaseLoad[];
  /** The worst layer's max/mean under the committed plan and the forecast, as it was when last asked for. */
  readonly predicted: number | undefined;
  /** The verdict on the last plan that was made. */
  readonly judged: Judged | undefined;
  /** The last forecast's figures; undefined until a window had enough load. */
  readonly outlook: Outlook | undefined;
}

export interface Outlook extends Pick<Forecast, "arm" | "error" | "change" | "noiseFloor" | "windows"> {
  /** True when the load has changed at once, and no plan was judged since. */
  readonly changed: boolean;
}

export interface TelemetryFacts {
  /** The state of the connection to NATS; undefined where no server is named. */
  readonly bus: BusStatus | undefined;
  readonly ageMs: number;
  readonly staleAfterMs: number;
  readonly reporting: number;
  readonly expected: number;
  readonly lastSampleMs: number;
  /** The reason why no message can be told from a forged one; undefined while there are keys, or no server. */
  readonly keyProblem: string | undefined;
  /** The reason for the last message refused, if that was lately. */
  readonly refused: string | undefined;
}

export interface Unheld {
  /** (layer, expert) pairs without a live expert replica. */
  readonly unhosted: number;
  /** The number of these that no usable rank is planned to hold. */
  readonly withoutRank: number;
  /** Usable ranks that have yet to load some of the other pairs, ascending. */
  readonly loading: readonly number[];
}

export interface Why {
  readonly reason: string;
  readonly message: string;
}

export interface Observed {
  /** Unix ms. */
  readonly now: number;
  readonly world: World;
  readonly spec: MoEDeploymentSpec;
  /** Worker pods joined with what their links say. */
  readonly views: readonly RankView[];
  readonly gateways: readonly GatewayView[];
  /** A key that changes with every process that comes, goes or is to leave. */
  readonly members: string;
  /** Ranks as the planner sees them. */
  readonly ranks: readonly RankSpec[];
  readonly hardware: readonly SpeedRank[];
  /** The load that each process says it has, by the uid of its pod, of those whose stream works. */
  readonly signals: ReadonlyMap<string, RankSignals>;
  /** Ranks that should report load. */
  readonly expected: readonly ExpectedRank[];
  /** The shape of the model that the workers run; undefined until one was described. */
  readonly shape: ModelShape | undefined;
  /** What the workers agree to run is not that model, or its experts have another form: what is known is to be forgotten. */
  readonly otherModel: boolean;
  readonly placement: PlacementFacts;
  /** The committed plan. */
  readonly plan: PlacementPlan | undefined;
  /** True when every usable rank has taken up the committed plan. */
  readonly synced: boolean;
  readonly holding: Unheld;
  /** Experts that one more loss would leave without a live expert replica. */
  readonly expertsAtRisk: number;
  /** Resident bytes of experts that no other live rank hosts, by rank. */
  readonly uniqueBytes: ReadonlyMap<number, number>;
  /** Experts of the plan with fewer expert replicas than spec.experts.minExpertReplicas asks for. */
  readonly belowFloor: number;
  readonly telemetry: TelemetryFacts;
  readonly busConnected: boolean;
  /** True when every worker was heard or had time enough to be, so that a membership may be pushed. */
  readonly introduced: boolean;
  /** Milliseconds since the first worker was described. */
  readonly waitedMs: number;
  /** Unix ms at which each rank was last usable, and at which looking began. */
  readonly usableAt: ReadonlyMap<number, number>;
  readonly startedAt: number;
  /** Ranks of the plan without a usable process for longer than the grace. */
  readonly gone: ReadonlySet<number>;
  /** The intents, by kind, that are not to be tried now, with the reason where there is one to tell. */
  readonly paused: ReadonlyMap<string, Why | undefined>;
  /** Ranks that cannot be emptied with the present members, and why. */
  readonly blocked: ReadonlyMap<number, string>;
}
