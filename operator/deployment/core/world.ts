// The world of one deployment as types: what Kubernetes has of it and what the rebalance plane knows of it. Pure.
// ../ports.ts re-exports these for the rebalance plane.
import type { ConditionStatus } from "../../../crds/conditions.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import type { ExpertGrid } from "../../../runtime/placement/grid.ts";

/** One worker pod that exists and is not terminal. */
export interface WorkerPod {
  readonly rank: number;
  readonly name: string;
  readonly uid: string;
  /** Address of the pod; undefined until it has one. */
  readonly ip: string | undefined;
  readonly node: string | undefined;
  /** Zone of its node (topology.kubernetes.io/zone). */
  readonly zone: string | undefined;
  /** Value of the label that spec.scheduling.topology names, on its node; unset without. */
  readonly rack?: string | undefined;
  /** True when its probe says that it is ready. */
  readonly ready: boolean;
  /** True when it has a deletionTimestamp: it may still answer, but is on its way out. */
  readonly terminating: boolean;
  /** True when neither its node nor the rank itself answers, so that nothing more is to be expected of it. */
  readonly lost: boolean;
}

export type LeavingReason = "Shrink" | "Roll" | "Evict" | "Stop";
/** A rank that is to be emptied before its pod is deleted. Evict: its node or an eviction makes it go, and its pod may be terminating
 *  already. Stop: all ranks go, so nothing is moved, requests only finish. */
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

/** What a gateway says over its Control stream; a pod that is not heard says nothing, which is not to have no requests. */
export interface GatewayView {
  readonly name: string;
  /** Milliseconds since it had a request, 0 while it has one; undefined while it is not heard, and of releases that do not say. */
  readonly idleMs: number | undefined;
  /** No rank serves, and one is needed: for requests that wait, or for the tokenizer. */
  readonly wantsRanks: boolean;
  /** It has heard that requests are to be held while no rank serves. */
  readonly holds: boolean;
}

/** The world as Kubernetes has it, handed over after every reconcile. */
export interface World {
  readonly ref: { readonly namespace: string; readonly name: string };
  readonly uid: string;
  readonly generation: number;
  readonly spec: MoEDeploymentSpec;
  /** Ranks wanted now (after settle time and suspension). */
  readonly desiredRanks: number;
  readonly workers: readonly WorkerPod[];
  readonly gateways: readonly GatewayPod[];
  readonly leaving: readonly LeavingRank[];
  /** While no rank serves, gateways let requests wait so many milliseconds for one; unset = not at all. */
  readonly holdMs?: number;
}

/** What a worker's process has served since it started. */
export interface ServedTotals {
  /** Requests that ended with their text or an error. */
  readonly requests: number;
  /** Those with an error that was not the caller's. */
  readonly failed: number;
  /** Times from one token of a request to its next, and microseconds of all of them. */
  readonly gaps: number;
  readonly gapMicros: number;
}

/** What a rank's process has said of its load: means over the last seconds. */
export interface RankSignals {
  /** Milliseconds from the first look to the last. */
  readonly spanMs: number;
  /** Tokens of prompts that wait or are being computed. */
  readonly queuedTokens: number;
  /** Share of the attention cache that open requests hold; undefined of releases that do not say. */
  readonly kvUse: number | undefined;
  /** Tokens of prompts and answers computed in a second; undefined of releases that do not say. */
  readonly tokensPerSecond: number | undefined;
}

export interface MemberView {
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  /** True while its Control stream works. */
  readonly connected: boolean;
  /** True when it serves: it is connected and described, runs the right model, and a Commit has reached it. */
  readonly active: boolean;
  readonly ready: boolean;
  readonly notReadyReason: string;
  readonly draining: boolean;
  readonly activeRequests: number;
  readonly epoch: number;
  /** Resident bytes; 0 until described. */
  readonly hostedBytes: number;
  readonly budgetBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Resident bytes of experts that no other active rank hosts; decides who leaves first. */
  readonly uniqueBytes: number;
  /** Undefined until it is heard, and from workers of releases that do not say. */
  readonly served?: ServedTotals | undefined;
  /** Undefined while its Control stream does not work. */
  readonly signals?: RankSignals | undefined;
}

export interface ModelView extends ExpertGrid {
  readonly digest: string;
  readonly architecture: string;
  readonly topK: number;
  /** Resident bytes of one expert replica of every expert, and of the largest one (the staging slot). */
  readonly expertBytes: number;
  readonly largestExpertBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Requests that run at once on a rank, at most. */
  readonly kvSlots: number;
  /** Tokens that the KV pool of a rank holds, of all requests together. */
  readonly kvTokens: number;
  readonly maxContext: number;
  /** The backends that ranks compute with: what Auto has become, which may be one thing on one node and another on the next. */
  readonly backends: readonly string[];
}

export type DrainPhase =
  | "Moving" // its experts are being moved to others
  | "Draining" // experts are safe, requests are finishing
  | "Drained" // may be deleted
  | "Blocked"; // the others cannot take its experts; see message

export interface DrainView {
  readonly rank: number;
  readonly podUid: string;
  readonly phase: DrainPhase;
  readonly message: string;
}

/** A condition the rebalance plane decides; the deployment plane writes it. */
export interface Verdict {
  readonly status: ConditionStatus;
  /** The condition's reason, in PascalCase. */
  readonly reason: string;
  readonly message: string;
}

export interface RebalanceView {
  readonly members: readonly MemberView[];
  readonly gateways: readonly GatewayView[];
  /** The model; undefined until one worker was described. */
  readonly model: ModelView | undefined;
  /** Ranks whose model digest differs from the world's. */
  readonly digestMismatch: readonly number[];
  /** Experts of the plan that no rank holds now. They come and go while a restarted rank loads: for the metric, not for conditions. */
  readonly unhostedExperts: number;
  /** The unhosted experts that no rank is there to load: they are loaded on demand until a plan has room for them. */
  readonly expertsWithoutRank: number;
  /** Ranks that have yet to load the other unhosted experts. */
  readonly loadingRanks: readonly number[];
  /** Experts that the loss of one node would leave without a live expert replica; without a rank ones included. */
  readonly expertsAtRisk: number;
  readonly drains: readonly DrainView[];
  /** The verdict on ModelAvailable: Resolved, Opening or DigestMismatch. */
  readonly modelAvailable: Verdict;
  /** The verdict on Reproducible: Exact, ToleranceDevice, MixedClasses, NotObserved or NotReported. */
  readonly reproducible: Verdict;
  /** The verdict on TelemetryFresh: Fresh, Stale, PartialRanks, NATSUnavailable, CredentialsNotFound, CredentialsRefused,
   *  SigningKeyMissing, NoRanks or NotConfigured. */
  readonly telemetryFresh: Verdict;
  /** The verdict on PlacementBalanced: Balanced, Imbalanced, RebalanceSuppressed, Rebalancing, Unknown, or what is waited for. */
  readonly placementBalanced: Verdict;
  /** The parts `placement` and `telemetry` of the status, which are copied into it as they are. */
  readonly placement: MoEDeploymentStatus["placement"];
  readonly telemetry: MoEDeploymentStatus["telemetry"];
}
