// The facts that the rules here decide by: what was observed, with the spec in force. features/facts.ts makes it.

import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { GangName } from "../../../crds/names.ts";
import type { RolledBack } from "../../../crds/rollout.ts";
import type { Served } from "../../kube/informers.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { Comparison } from "./canary.ts";
import type { Pending } from "./delivery.ts";
import type { GreenLook } from "./green-look.ts";
import type { LeavingReason, RebalanceView, WorkerPod } from "./world.ts";

export interface PodFacts extends WorkerPod {
  /** True when its node does not answer, or is not there. */
  readonly silent: boolean;
  /** True when it has Failed or Succeeded and will never run again. */
  readonly terminal: boolean;
  readonly templateHash: string;
  /** Claim and path that it has its model from; undefined where it does not say. */
  readonly model: string | undefined;
  /** The scheduler of whose groups it is a member; unset for one that finds room alone. */
  readonly gang?: GangName | undefined;
  /** The image of its runtime container. */
  readonly image: string;
  readonly createdMs: number;
  /** The mark that we put on a pod that is to go. */
  readonly leaving: { readonly reason: LeavingReason; readonly sinceMs: number } | undefined;
  /** The reason why it cannot stay where it is: its node is cordoned or about to go, or it is being evicted; empty when it can. */
  readonly mustGo: string;
  /** The time by which a pod with a deletionTimestamp should be gone. */
  readonly goneByMs: number | undefined;
  /** Unix ms since which it is not Ready; undefined while it is. */
  readonly unreadySinceMs: number | undefined;
  /** Starts of its containers again, of the one that has most. */
  readonly restarts: number;
  /** The reason why the pod does not run: ImagePullBackOff, Unschedulable, ... with the message; empty when nothing is wrong. */
  readonly problem: string;
}

/** A pod before it is known whether it is lost (loss.ts). */
export type ObservedPod = Omit<PodFacts, "lost">;

export interface GatewayFacts {
  readonly ready: number;
  /** The number that the Deployment asks for, whoever set it; undefined while it is not seen. */
  readonly replicas: number | undefined;
  /** The reason why there are not more; empty when nothing is wrong. */
  readonly message: string;
  /** The reason why a pod cannot be made; empty when none is missing for that. */
  readonly createError: string;
  /** The reason why the autoscaler that the spec asks for sets no number; empty when it does, or there is none. */
  readonly unscaled: string;
}

export interface RouteCondition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  /** The generation of the route that it speaks of; undefined where it does not say. */
  readonly observedGeneration?: number | undefined;
}

/** What a controller says of a route on behalf of one Gateway. */
export interface RouteParent {
  readonly name: string;
  readonly namespace: string | undefined;
  readonly sectionName: string | undefined;
  readonly controller: string;
  readonly conditions: readonly RouteCondition[];
}

export interface RouteFacts {
  /** Whether the cluster has HTTPRoutes. */
  readonly served: Served;
  /** The deployment's route; undefined while it is not there. */
  readonly route: { readonly generation: number; readonly parents: readonly RouteParent[] } | undefined;
}

/** The pods that a deleted MoEDeployment of the same name left. */
export interface Orphans {
  readonly workers: readonly PodFacts[];
  readonly gateways: number;
}

/** Which build of the runtime pods are made with (runtime-image.ts). */
export interface RuntimeImage {
  /** The image of pods that name none of their own. */
  readonly pinned: string;
  /** The image that this operator comes with. */
  readonly offered: string;
  /** The image that the workers' template names. */
  readonly own: string | undefined;
}

/** What is known of templates beside the one in force. */
export interface RolloutFacts {
  /** The accepted specs that are kept, newest first. */
  readonly revisions: readonly { readonly number: number; readonly templateHash: string }[];
  /** The model that is wanted, in force or held, and that of the stable template; undefined where it is not known. */
  readonly models?: { readonly wanted: string; readonly stable: string | undefined };
  /** The roll that was taken back, while the spec asks for it all the same. */
  readonly rolledBack: RolledBack | undefined;
  /** What canaries and the other ranks served since canaries bake; undefined while none do. */
  readonly comparison?: Comparison | undefined;
}

export interface Snapshot {
  readonly now: Date;
  readonly deployment: MoEDeployment;
  readonly pods: readonly PodFacts[];
  readonly orphans: Orphans;
  readonly gateway: GatewayFacts;
  /** Undefined where it was not looked at. */
  readonly route?: RouteFacts | undefined;
  /** The hash of the template in force: of the worker pod as it would be made now. */
  readonly templateHash: string;
  /** Undefined where no spec is in force. */
  readonly rollout: RolloutFacts | undefined;
  /** Undefined where no spec is in force. */
  readonly runtimeImage: RuntimeImage | undefined;
  /** The reasons why the spec is not in force as it stands (fields of ours, what the API server refuses); empty when it is. */
  readonly refusals: readonly Refusal[];
  /** Owned objects that stay as they are since others manage fields of theirs, each with who and the remedy. */
  readonly conflicts: readonly string[];
  readonly claim: "Present" | "Missing" | "Unknown";
  readonly view: RebalanceView | undefined;
  /** What is downloaded, of a model that is not in its claim yet, and the commit of one that is, where it is known. */
  readonly delivery: {
    readonly pending: Pending | undefined;
    readonly revision: string | undefined;
    /** What ranks that start wait for while others serve; empty where the weight server is there, or none is wanted. */
    readonly away: string;
  };
  /** True while all pods of another model stop: `deployment` then reads as if it were suspended. */
  readonly switching: boolean;
  /** Undefined where no green deployment is there or to be made. */
  readonly green?: GreenLook | undefined;
  /** True while this process has only just become leader and still opens its sessions: things that it does not know prove nothing. */
  readonly warmingUp: boolean;
}

/** The number of gateways that is wanted: the spec's, or that of whoever scales them, who finds one at the start. */
export function wantedGateways({ deployment, gateway }: Pick<Snapshot, "deployment" | "gateway">): number {
  const { suspend, gateway: front } = deployment.spec;
  return suspend ? 0 : (front.replicas ?? gateway.replicas ?? 1);
}

/** Pods that count: a rank is taken as long as one of these has it. */
export const living = (pods: readonly PodFacts[]): PodFacts[] => pods.filter((pod) => !pod.terminal && !pod.lost);

/** Pods that serve: Ready, not on their way out, and members of the world. While we have not reached a pod yet (a new leader
 *  opens its sessions one by one) its own readiness is what we know: it is Ready only with a committed plan. */
export function servingPods(snapshot: Snapshot): PodFacts[] {
  return living(snapshot.pods).filter((pod) => pod.ready && !pod.terminating && isMember(snapshot, pod));
}

export function isMember(snapshot: Snapshot, pod: PodFacts): boolean {
  const member = snapshot.view?.members.find((one) => one.podUid === pod.uid);
  return member === undefined || member.bootId === "" || member.active;
}

/** Nothing runs yet, and nothing will before the model is there. */
export const awaitsModel = ({ delivery, pods }: Snapshot): boolean => delivery.pending !== undefined && living(pods).length === 0;
