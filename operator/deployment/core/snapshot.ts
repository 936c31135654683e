// The observed facts, with the spec in effect; features/facts.ts builds them.
import type { DownloadProgress } from "../../../crds/download.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { GangName } from "../../../crds/names.ts";
import type { ProcessEnd } from "../../../crds/process-end.ts";
import type { RolledBack } from "../../../crds/rollout.ts";
import type { Served } from "../../kube/informers.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { GreenLook } from "./green-look.ts";
import type { Comparison, LeavingReason, RebalanceView, WorkerPod } from "./world.ts";

export interface Pending {
  readonly reason: string;
  readonly message: string;
  readonly report: DownloadProgress | undefined;
}

export interface PodFacts extends WorkerPod {
  /** Its node does not answer, or does not exist. */
  readonly silent: boolean;
  /** It has Failed or Succeeded, and never runs again. */
  readonly terminal: boolean;
  readonly templateHash: string;
  /** Names of what its scheduler waits for. */
  readonly gates: readonly string[];
  /** Claim and path of its model; undefined if unknown. */
  readonly model: string | undefined;
  /** Unset where it is scheduled alone. */
  readonly gang?: GangName | undefined;
  readonly image: string;
  readonly createdMs: number;
  /** Our annotation on a pod that is to leave. */
  readonly leaving: { readonly reason: LeavingReason; readonly sinceMs: number } | undefined;
  /** Why it must leave its node; empty when it may stay. */
  readonly mustGo: string;
  /** What is left of its grace period, counted by this process; undefined unless it terminates. */
  readonly goneInMs: number | undefined;
  /** Unix ms since which it is not Ready; undefined while it is. */
  readonly unreadySinceMs: number | undefined;
  readonly restarts: number;
  /** Why it does not run, such as ImagePullBackOff; empty when nothing is wrong. */
  readonly problem: string;
  /** The last words of its process; unset while it is Ready, and where there are none. */
  readonly end?: ProcessEnd | undefined;
}

export type ObservedPod = Omit<PodFacts, "lost">;

export interface GatewayFacts {
  readonly ready: number;
  /** The gateway Deployment's number; undefined while it is not seen. */
  readonly replicas: number | undefined;
  readonly message: string;
  /** Why a pod cannot be created; empty when it can. */
  readonly createError: string;
  /** Why a requested HorizontalPodAutoscaler sets no number; empty when it does. */
  readonly unscaled: string;
}

export interface RouteCondition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration?: number | undefined;
}

/** A controller's status of a route for one Gateway. */
export interface RouteParent {
  readonly name: string;
  readonly namespace: string | undefined;
  readonly sectionName: string | undefined;
  readonly controller: string;
  readonly conditions: readonly RouteCondition[];
}

export interface RouteFacts {
  readonly served: Served;
  /** Undefined while the deployment has no route. */
  readonly route: { readonly generation: number; readonly parents: readonly RouteParent[] } | undefined;
}

/** Pods left by a deleted MoEDeployment of the same name. */
export interface Orphans {
  readonly workers: readonly PodFacts[];
  readonly gateways: number;
}

/** The builds of the runtime that pods can have (runtime-image.ts). */
export interface RuntimeImage {
  readonly pinned: string;
  /** The image that this operator ships. */
  readonly offered: string;
  /** The image that the workers' template names. */
  readonly own: string | undefined;
}

/** Templates beside the one in effect. */
export interface RolloutFacts {
  readonly revisions: readonly { readonly number: number; readonly templateHash: string }[];
  /** The requested model, and that of the stable template; undefined where unknown. */
  readonly models?: { readonly wanted: string; readonly stable: string | undefined };
  /** The roll that was rolled back, while the spec still asks for it. */
  readonly rolledBack: RolledBack | undefined;
  readonly comparison?: Comparison | undefined;
}

/** A start whose ranks were taken out (refused-start.ts). */
export interface RefusedStart {
  /** Another template begins anew, with all ranks. */
  readonly templateHash: string;
  /** The first of each code. */
  readonly ends: readonly ProcessEnd[];
  readonly tries: number;
  /** No rank is made before this time of the monotonic clock. */
  readonly untilMs: number;
}

export interface Snapshot {
  readonly now: Date;
  readonly deployment: MoEDeployment;
  readonly pods: readonly PodFacts[];
  readonly orphans: Orphans;
  readonly gateway: GatewayFacts;
  readonly route?: RouteFacts | undefined;
  /** Hash of the worker pod that the template in effect renders. */
  readonly templateHash: string;
  readonly rollout: RolloutFacts | undefined;
  readonly runtimeImage: RuntimeImage | undefined;
  /** Why the spec is not in effect as written. */
  readonly refusals: readonly Refusal[];
  /** Owned objects whose fields others manage, each with the remedy. */
  readonly conflicts: readonly string[];
  readonly claim: "Present" | "Missing" | "Unknown";
  readonly view: RebalanceView | undefined;
  /** An unfinished download, and the model's commit where known. */
  readonly delivery: {
    readonly pending: Pending | undefined;
    readonly revision: string | undefined;
    /** What starting ranks wait for while others serve; empty when nothing. */
    readonly away: string;
  };
  /** The last words of weight servers that are not Ready; unset: none. */
  readonly weightServerEnds?: readonly ProcessEnd[];
  /** Unset unless its ranks were taken out for what they found. */
  readonly refusedStart?: RefusedStart | undefined;
  /** All pods of another model stop; `deployment` reads as suspended. */
  readonly switching: boolean;
  /** Undefined without a green deployment. */
  readonly green?: GreenLook | undefined;
  /** A new leader still opens its sessions, so that silence proves nothing. */
  readonly warmingUp: boolean;
}

/** The spec or the autoscaler sets this number. */
export function wantedGateways({ deployment, gateway }: Pick<Snapshot, "deployment" | "gateway">): number {
  const { suspend, gateway: front } = deployment.spec;
  return suspend ? 0 : (front.replicas ?? gateway.replicas ?? 1);
}

export const living = (pods: readonly PodFacts[]): PodFacts[] => pods.filter((pod) => !pod.terminal && !pod.lost);

/**
 * Ready members of the world. For pods that a new leader has not reached, readiness suffices, since a worker is Ready only with a committed
 * plan.
 */
export function servingPods(snapshot: Snapshot): PodFacts[] {
  return living(snapshot.pods).filter((pod) => pod.ready && !pod.terminating && isMember(snapshot, pod));
}

export function isMember(snapshot: Snapshot, pod: PodFacts): boolean {
  const member = snapshot.view?.members.find((one) => one.podUid === pod.uid);
  return member === undefined || member.bootId === "" || member.active;
}

export const awaitsModel = ({ delivery, pods }: Snapshot): boolean => delivery.pending !== undefined && living(pods).length === 0;
