// One look at a deployment and everything around it: made once a pass by observe.ts, frozen, and read by every feature. Types only.
import type { AppError } from "../../crds/common.ts";
import type { DownloadWords } from "../../crds/download.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { RolledBack } from "../../crds/rollout.ts";
import type { GangScheduler } from "../gangs/gang.ts";
import type { Refusal } from "../kube/refusal-text.ts";
import type { AcceptedRevision } from "./accepted-specs.ts";
import type { DeliveryInput } from "./core/delivery.ts";
import type { Front } from "./core/green-look.ts";
import type { Memory } from "./core/memory.ts";
import type { GatewayFacts, Orphans, PodFacts, RouteFacts, Snapshot } from "./core/snapshot.ts";
import type { WeightServerState } from "./core/weight-server.ts";
import type { GatewayPod, MemberView, RebalanceView } from "./core/world.ts";
import type { RenderContext, Settings } from "./objects/context.ts";
import type { RenderedPod, WorkerTemplate } from "./objects/worker-pod.ts";
import type { Accepted } from "./revision.ts";

/** The spec as it stands, rendered once. */
export interface RenderedSpec {
  /** The last accepted spec that was not rolled back. */
  readonly accepted: Accepted | undefined;
  /** The last one with which every rank has served. */
  readonly stable: Accepted | undefined;
  /** The image that the operator comes with, and the one that pods without an image of their own have. */
  readonly offered: string;
  readonly runtimeImage: string;
  readonly context: RenderContext;
  readonly workers: WorkerTemplate & { readonly refusals: readonly Refusal[] };
  readonly gateways: RenderedPod & { readonly refusals: readonly Refusal[] };
  /** The same as they were accepted, where nothing of the spec has changed: what this release renders otherwise changes no pod. */
  readonly wanted: WorkerTemplate;
  readonly gateway: RenderedPod;
  /** The roll back that holds while the spec asks for the template that failed. */
  readonly back: RolledBack | undefined;
}

/** The pod of a weight server. */
export interface WeightServerPod extends Omit<WeightServerState, "current"> {
  /** The model that it was made for. */
  readonly model: string | undefined;
  readonly terminating: boolean;
  readonly running: boolean;
  readonly ip: string | undefined;
}

/** The green deployment as the cache has it. */
export interface GreenSeen {
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly createdMs: number;
  readonly terminating: boolean;
  readonly spec: Partial<Pick<MoEDeployment["spec"], "suspend" | "replicas" | "gateway">>;
  readonly status: MoEDeployment["status"];
  readonly workers: readonly PodFacts[];
  /** Its pods of any kind. */
  readonly pods: number;
  readonly members: readonly MemberView[];
}

export interface Observed {
  readonly now: Date;
  /** Of the process's clock, for ages alone. */
  readonly ticksMs: number;
  /** Until this process has opened its sessions: what it does not know before proves nothing. */
  readonly warmMs: number;
  readonly deployment: MoEDeployment;
  /** Why its spec cannot be read, where the last accepted one is in its place. */
  readonly unreadable: readonly Refusal[];
  readonly settings: Settings;
  readonly memory: Memory;
  readonly pods: readonly PodFacts[];
  readonly orphans: Orphans;
  readonly gateway: GatewayFacts;
  /** Gateways that may still answer, by what they have their model from. */
  readonly gatewayModels: readonly (string | undefined)[];
  readonly gatewayPods: readonly GatewayPod[];
  readonly revisions: readonly AcceptedRevision[];
  readonly rendered: RenderedSpec;
  /** Ranks have the model from a weight server. */
  readonly remoteStore: boolean;
  readonly claim: Snapshot["claim"];
  /** Why the claim could not be looked at; `sourceUnknown`: so that nothing is settled. */
  readonly claimFailure: AppError | undefined;
  readonly sourceUnknown: boolean;
  readonly download: Pick<DeliveryInput, "jobs" | "pods" | "writers"> & {
    /** The Job that brings the model; undefined where nothing is downloaded. */
    readonly wanted: string | undefined;
    readonly words: DownloadWords | undefined;
    /** Work folders of the namespace's deployments; undefined where they cannot be told. */
    readonly workInUse: readonly string[] | undefined;
  };
  readonly weightServer: { readonly pods: readonly WeightServerPod[]; readonly words: DownloadWords | undefined };
  readonly green: GreenSeen | undefined;
  readonly front: Front;
  readonly route: RouteFacts;
  readonly gangs: { readonly scheduler: GangScheduler | undefined; readonly refusals: readonly Refusal[] };
  readonly view: RebalanceView | undefined;
  /** The number of ranks is a default that nobody gives. */
  readonly fallen: boolean;
}
