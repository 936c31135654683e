// A deployment's state as Kubernetes and the rebalance plane report it; types only.
import type { ConditionStatus } from "../../../crds/conditions.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import type { RankRole } from "../../../crds/roles.ts";
import type { ExpertGrid } from "../../../runtime/placement/grid.ts";

export interface WorkerPod {
  readonly rank: number;
  readonly name: string;
  readonly uid: string;
  readonly ip: string | undefined;
  readonly node: string | undefined;
  /** topology.kubernetes.io/zone of its node. */
  readonly zone: string | undefined;
  /** Value of the node label that spec.scheduling.topology names. */
  readonly rack?: string | undefined;
  readonly ready: boolean;
  readonly terminating: boolean;
  /** Neither its node nor its process answers. */
  readonly lost: boolean;
  /** Between its load messages, as its environment has it; undefined where that cannot be read. */
  readonly loadEveryMs?: number | undefined;
  /** As it was started; undefined where that is unknown. */
  readonly oversubscription?: "Never" | "Allow" | undefined;
}

export type LeavingReason = "Shrink" | "Roll" | "Evict" | "Stop";
/** A rank to empty before its pod is deleted. Evict: the pod may be terminating already. Stop: all ranks go, so that no expert moves. */
export interface LeavingRank {
  readonly rank: number;
  readonly podUid: string;
  readonly reason: LeavingReason;
}

export interface GatewayPod {
  readonly name: string;
  readonly uid: string;
  readonly ip: string | undefined;
}

/** A gateway's report over its Control stream; it exists only while the stream works. */
export interface GatewayView {
  readonly name: string;
  /** Since its last request, 0 while it has one; undefined while unknown. */
  readonly idleMs: number | undefined;
  /** It needs a rank and none serves. */
  readonly wantsRanks: boolean;
  /** It had no request since it started, and is idle since then. */
  readonly unasked?: boolean;
  /** It queues requests while no rank serves. */
  readonly holds: boolean;
}

/** The deployment plane publishes it after every pass. */
export interface World {
  readonly ref: { readonly namespace: string; readonly name: string };
  readonly uid: string;
  readonly generation: number;
  readonly spec: MoEDeploymentSpec;
  readonly desiredRanks: number;
  readonly workers: readonly WorkerPod[];
  readonly gateways: readonly GatewayPod[];
  readonly leaving: readonly LeavingRank[];
  /** Milliseconds for which gateways queue requests without a rank; unset = 0. */
  readonly holdMs?: number;
}

export interface ServedTotals {
  readonly requests: number;
  /** Requests whose error was not the caller's. */
  readonly failed: number;
  /** Number of gaps between tokens of a request, and their sum in microseconds. */
  readonly gaps: number;
  readonly gapMicros: number;
}

export interface ComparedTotals extends ServedTotals {
  /** The ranks are for prefill, which make no more than first tokens. */
  readonly isPrefill?: boolean;
}

/** Undefined where a rank does not report. */
export interface Comparison {
  readonly canaries: ComparedTotals | undefined;
  readonly others: ComparedTotals | undefined;
}

/** Load of a rank: means over `spanMs`. */
export interface RankSignals {
  readonly spanMs: number;
  readonly queuedTokens: number;
  /** Used fraction of the KV cache; undefined in old releases. */
  readonly kvUse: number | undefined;
  /** Undefined in old releases. */
  readonly tokensPerSecond: number | undefined;
}

export interface MemberView {
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  readonly connected: boolean;
  /** It is connected, described, has the right model and has received a Commit. */
  readonly active: boolean;
  readonly ready: boolean;
  readonly notReadyReason: string;
  readonly draining: boolean;
  readonly activeRequests: number;
  readonly epoch: number;
  /** Bytes of its experts; 0 until described. */
  readonly hostedBytes: number;
  readonly budgetBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Bytes of experts that no other active rank hosts. */
  readonly uniqueBytes: number;
  readonly served?: ServedTotals | undefined;
  /** Undefined without a Control stream. */
  readonly signals?: RankSignals | undefined;
  /** Undefined without roles, and while it does not serve. */
  readonly role?: RankRole | "both";
}

export interface ModelView extends ExpertGrid {
  readonly digest: string;
  readonly architecture: string;
  readonly topK: number;
  /** Bytes of one replica of every expert. */
  readonly expertBytes: number;
  readonly largestExpertBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Requests that a rank runs at once, at most. */
  readonly kvSlots: number;
  readonly kvTokens: number;
  readonly maxContext: number;
  /** Backends that the ranks chose for Auto. */
  readonly backends: readonly string[];
}

export type DrainPhase =
  | "Moving" // its experts are being moved to others
  | "Draining" // its experts are safe, requests are finishing
  | "Drained" // may be deleted
  | "Blocked"; // other ranks have no capacity for its experts; see message

export interface DrainView {
  readonly rank: number;
  readonly podUid: string;
  readonly phase: DrainPhase;
  readonly message: string;
}

/** A condition that the rebalance plane computes and the deployment plane writes. */
export interface Verdict {
  readonly status: ConditionStatus;
  readonly reason: string;
  readonly message: string;
}

export interface RebalanceView {
  readonly members: readonly MemberView[];
  readonly gateways: readonly GatewayView[];
  /** Undefined until a worker is described. */
  readonly model: ModelView | undefined;
  readonly digestMismatch: readonly number[];
  /** Experts of the plan that no rank hosts; for the metric only, since they vary while a rank restarts. */
  readonly unhostedExperts: number;
  /** Unhosted experts whose rank is gone: ranks load them on demand until a plan places them. */
  readonly expertsWithoutRank: number;
  readonly loadingRanks: readonly number[];
  /** Experts that the loss of any one node leaves without a live replica. */
  readonly expertsAtRisk: number;
  readonly drains: readonly DrainView[];
  /** Reasons: Resolved, Opening, DigestMismatch. */
  readonly modelAvailable: Verdict;
  /** Reasons: Exact, ToleranceDevice, MixedClasses, NotObserved, NotReported. */
  readonly reproducible: Verdict;
  /**
   * Reasons: Fresh, FreshOnControl, Stale, PartialRanks, NATSUnavailable, CredentialsNotFound, CredentialsRefused, SigningKeyMissing, NoRanks,
   * NotConfigured.
   */
  readonly telemetryFresh: Verdict;
  readonly placementBalanced: Verdict;
  /** Reasons: Oversubscribed, FitsInMemory, NotObserved; undefined where the spec does not allow it. */
  readonly expertsOversubscribed?: Verdict | undefined;
  /** Copied into the status. */
  readonly placement: MoEDeploymentStatus["placement"];
  readonly telemetry: MoEDeploymentStatus["telemetry"];
}
