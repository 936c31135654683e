// What the deployment plane (pods, Services, status) and the rebalance plane (sessions with workers, plans) ask of each other.
// Types only. The rebalance plane implements Rebalance, the deployment plane calls it; main.ts joins them.
// Neither waits for the other: update() says what is wanted, view() tells what is, onChange() asks for another look.
import type { MoEDeployment, MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Ref } from "../kube/kube.ts";

/** One worker pod that exists and is not terminal. */
export interface WorkerPod {
  readonly rank: number;
  readonly name: string;
  readonly uid: string;
  /** undefined until the pod has an address. */
  readonly ip: string | undefined;
  readonly node: string | undefined;
  /** Ready by its probe. */
  readonly ready: boolean;
  /** Has a deletionTimestamp: it may still answer, but is on its way out. */
  readonly terminating: boolean;
  /** Its node does not answer: nothing more is to be expected of it. */
  readonly lost: boolean;
}

export type LeavingReason = "Shrink" | "Roll" | "Stop";
/** A rank that is to be emptied before its pod is deleted. Stop: all ranks go, so nothing is moved, requests only finish. */
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

/** The world as Kubernetes has it, handed over after every reconcile. */
export interface World {
  readonly ref: Ref;
  readonly uid: string;
  readonly generation: number;
  readonly spec: MoEDeploymentSpec;
  /** Ranks wanted now (after settle time and suspension). */
  readonly desiredRanks: number;
  readonly workers: readonly WorkerPod[];
  readonly gateways: readonly GatewayPod[];
  readonly leaving: readonly LeavingRank[];
}

export interface MemberView {
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  /** Connected, described, of the right model, and Commit has reached it: it serves. */
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
}

export interface ModelView {
  readonly digest: string;
  readonly architecture: string;
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  /** Resident bytes of one copy of every expert, and of the largest one (the staging slot). */
  readonly expertBytes: number;
  readonly largestExpertBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
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
  readonly status: "True" | "False" | "Unknown";
  /** PascalCase. */
  readonly reason: string;
  readonly message: string;
}

export interface RebalanceView {
  readonly members: readonly MemberView[];
  /** undefined until one worker was described. */
  readonly model: ModelView | undefined;
  /** Ranks whose model digest differs from the world's. */
  readonly digestMismatch: readonly number[];
  /** Experts that no active rank hosts (loaded on demand). */
  readonly unhostedExperts: number;
  readonly drains: readonly DrainView[];
  /** Resolved | Opening | DigestMismatch ... */
  readonly modelAvailable: Verdict;
  /** Fresh | Stale | NATSUnavailable | PartialRanks | NotConfigured */
  readonly telemetryFresh: Verdict;
  /** Balanced | Imbalanced | RebalanceSuppressed | Rebalancing | Unknown */
  readonly placementBalanced: Verdict;
  /** Copied into status as they are. */
  readonly placement: MoEDeploymentStatus["placement"];
  readonly telemetry: MoEDeploymentStatus["telemetry"];
}

export interface Rebalance {
  /** Says what the world is now. Idempotent; returns at once; the work goes on in the background. */
  update(world: World): void;
  /** undefined: nothing known of it yet. */
  view(uid: string): RebalanceView | undefined;
  /** The deployment is gone (or this process no longer leads): close its sessions. */
  forget(uid: string): void;
  /** Called when a view changed in a way that matters to the status or to a drain. */
  onChange(listener: (ref: Ref) => void): void;
  /** Ends everything, such as when leadership is lost. */
  close(): Promise<void>;
}

/** Certificate and key of the operator for one deployment, PEM. Valid for its CA only. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** What the rebalance plane may ask of the deployment plane and its shells. */
export interface Deployments {
  /** TLS material `operator.<name>.<ns>.enodia`, made from the CA Secret; cached by uid. */
  identity(ref: Ref, uid: string): Promise<Identity>;
  /** Records a Kubernetes event on the MoEDeployment. */
  event(deployment: Pick<MoEDeployment, "metadata">, type: "Normal" | "Warning", reason: string, message: string): void;
  /** The credentials Secret of telemetry.nats, decoded: `user.creds` or `token`. undefined when none is named. */
  natsCredentials(ref: Ref, spec: MoEDeploymentSpec): Promise<{ creds?: string; token?: string } | undefined>;
  /** NATS server of a spec: its own or the operator's default; undefined: no telemetry. */
  natsUrl(spec: MoEDeploymentSpec): string | undefined;
  /** Runs the reconcile of a deployment again soon. */
  requeue(ref: Ref): void;
}

/** Name of rank r's certificate: what callers expect and servers check. */
export function workerServerName(ref: Ref, rank: number): string {
  return `rank-${rank}.${ref.name}.${ref.namespace}.enodia`;
}
