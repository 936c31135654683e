// What one pass has observed; types only.
import type { AppError } from "../../crds/common.ts";
import type { DownloadEnd, DownloadProgress } from "../../crds/download.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { ProcessEnd } from "../../crds/process-end.ts";
import type { RolledBack } from "../../crds/rollout.ts";
import type { GangScheduler } from "../gangs/gang.ts";
import type { Refusal } from "../kube/refusal-text.ts";
import type { ClaimUse } from "../pods/claim-holder.ts";
import type { Front } from "./core/green-look.ts";
import type { Memory } from "./core/memory.ts";
import type { Ownership } from "./core/replicas-owner.ts";
import type { GatewayFacts, Orphans, PodFacts, RouteFacts, Snapshot } from "./core/snapshot.ts";
import type { GatewayPod, MemberView, RebalanceView } from "./core/world.ts";
import type { RenderContext, Settings } from "./objects/context.ts";
import type { Accepted, AcceptedRevision } from "./objects/revision.ts";
import type { RenderedPod, WorkerTemplate } from "./objects/worker-pod.ts";

export interface RenderedSpec {
  /** The last accepted spec that was not rolled back. */
  readonly accepted: Accepted | undefined;
  /** The last spec with which every rank has served. */
  readonly stable: Accepted | undefined;
  /** The image that this operator ships. */
  readonly offered: string;
  readonly runtimeImage: string;
  readonly context: RenderContext;
  readonly workers: WorkerTemplate & { readonly refusals: readonly Refusal[] };
  readonly gateways: RenderedPod & { readonly refusals: readonly Refusal[] };
  /** As accepted, where the spec is unchanged (DECISIONS.md 4). */
  readonly wanted: WorkerTemplate;
  readonly gateway: RenderedPod;
  /** The rollback in effect while the spec asks for the failed template. */
  readonly rolledBack: RolledBack | undefined;
}

export interface JobFacts {
  readonly name: string;
  readonly uid: string;
  readonly state: "Running" | "Complete" | "Failed";
  readonly createdMs: number;
  /** Unix ms; undefined while it has not failed. */
  readonly failedMs: number | undefined;
  readonly message: string;
  readonly terminating: boolean;
  /** The node that its pods are held to; undefined = any. */
  readonly held?: string | undefined;
}

export interface DownloadPod {
  readonly uid: string;
  readonly job: string;
  readonly ip: string | undefined;
  readonly createdMs: number;
  readonly problem: string;
  /** The pod's exit message; undefined while it runs. */
  readonly end: DownloadEnd | undefined;
}

export interface WeightServerState {
  readonly uid: string;
  readonly name: string;
  readonly ready: boolean;
  /** Why it does not run; empty when nothing is wrong. */
  readonly problem: string;
  /** As of a rank's pod. */
  readonly end?: ProcessEnd | undefined;
  readonly createdMs: number;
  /** It has the spec's model. */
  readonly current: boolean;
}

export interface WeightServerPod extends Omit<WeightServerState, "current"> {
  readonly model: string | undefined;
  readonly terminating: boolean;
  readonly running: boolean;
  readonly ip: string | undefined;
}

export interface GreenSeen {
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly createdMs: number;
  readonly terminating: boolean;
  readonly spec: Partial<Pick<MoEDeployment["spec"], "suspend" | "replicas" | "gateway">>;
  readonly status: MoEDeployment["status"];
  readonly workers: readonly PodFacts[];
  readonly pods: number;
  readonly members: readonly MemberView[];
}

export interface Observed {
  readonly now: Date;
  /** Monotonic, for ages only. */
  readonly ticksMs: number;
  /** Milliseconds until this process has opened its sessions. */
  readonly warmMs: number;
  readonly deployment: MoEDeployment;
  /** The last accepted spec replaces an unreadable one. */
  readonly unreadable: readonly Refusal[];
  readonly settings: Settings;
  readonly memory: Memory;
  readonly pods: readonly PodFacts[];
  readonly orphans: Orphans;
  readonly gateway: GatewayFacts;
  /** Gateways that a deployment begins with, at first and after none; undefined where it has some. */
  readonly firstGateways: number | undefined;
  readonly gatewayModels: readonly (string | undefined)[];
  readonly gatewayPods: readonly GatewayPod[];
  readonly revisions: readonly AcceptedRevision[];
  readonly rendered: RenderedSpec;
  readonly remoteStore: boolean;
  readonly claim: Snapshot["claim"];
  /** One pod alone can mount the claim. */
  readonly oncePod: boolean;
  /** Pods that have the claim where one node alone can, but those on nodes that do not answer. */
  readonly claimUses: readonly ClaimUse[];
  /** Where `sourceUnknown` is set, nothing is decided by the claim. */
  readonly claimFailure: AppError | undefined;
  readonly sourceUnknown: boolean;
  readonly download: {
    readonly jobs: readonly JobFacts[];
    readonly pods: readonly DownloadPod[];
    /** Unfinished pods of other Jobs, which may still write. */
    readonly writers: readonly string[];
    readonly wanted: string | undefined;
    readonly report: DownloadProgress | undefined;
    readonly workInUse: readonly string[] | undefined;
  };
  readonly weightServer: {
    readonly pods: readonly WeightServerPod[];
    /** Why it gets no pod; empty when nothing is refused. */
    readonly refused: string;
    readonly report: DownloadProgress | undefined;
  };
  readonly green: GreenSeen | undefined;
  readonly front: Front;
  readonly route: RouteFacts;
  readonly gangs: { readonly scheduler: GangScheduler | undefined; readonly refusals: readonly Refusal[] };
  readonly view: RebalanceView | undefined;
  /** What workers get a copy of; a failure leaves the telemetry Secret as it is. */
  /** `entries` is undefined where they cannot be read now. */
  readonly natsCredentials: { readonly entries: Readonly<Record<string, string>> | undefined; readonly failure: AppError | undefined };
  /** Who sets spec.replicas; undefined without an autoscaler. */
  readonly replicasOwner: Ownership | undefined;
  /** spec.replicas is a default that nobody set. */
  readonly fallen: boolean;
  /** The version by which the object is written. */
  readonly resourceVersion: string;
  /** The copy is older than our last status, so that the number of ranks may have changed since. */
  readonly stale: boolean;
}
