// What one pass has observed; types only.
import type { AppError } from "../../crds/common.ts";
import type { DownloadWords } from "../../crds/download.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { RolledBack } from "../../crds/rollout.ts";
import type { GangScheduler } from "../gangs/gang.ts";
import type { Refusal } from "../kube/refusal-text.ts";
import type { AcceptedRevision } from "./state/accepted-specs.ts";
import type { DeliveryInput } from "./core/delivery.ts";
import type { Front } from "./core/green-look.ts";
import type { Memory } from "./core/memory.ts";
import type { GatewayFacts, Orphans, PodFacts, RouteFacts, Snapshot } from "./core/snapshot.ts";
import type { WeightServerState } from "./core/weight-server.ts";
import type { GatewayPod, MemberView, RebalanceView } from "./core/world.ts";
import type { RenderContext, Settings } from "./objects/context.ts";
import type { RenderedPod, WorkerTemplate } from "./objects/worker-pod.ts";
import type { Accepted } from "./objects/revision.ts";

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
  readonly back: RolledBack | undefined;
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
  readonly gatewayModels: readonly (string | undefined)[];
  readonly gatewayPods: readonly GatewayPod[];
  readonly revisions: readonly AcceptedRevision[];
  readonly rendered: RenderedSpec;
  readonly remoteStore: boolean;
  readonly claim: Snapshot["claim"];
  /** Where `sourceUnknown` is set, nothing is decided by the claim. */
  readonly claimFailure: AppError | undefined;
  readonly sourceUnknown: boolean;
  readonly download: Pick<DeliveryInput, "jobs" | "pods" | "writers"> & {
    readonly wanted: string | undefined;
    readonly words: DownloadWords | undefined;
    readonly workInUse: readonly string[] | undefined;
  };
  readonly weightServer: { readonly pods: readonly WeightServerPod[]; readonly words: DownloadWords | undefined };
  readonly green: GreenSeen | undefined;
  readonly front: Front;
  readonly route: RouteFacts;
  readonly gangs: { readonly scheduler: GangScheduler | undefined; readonly refusals: readonly Refusal[] };
  readonly view: RebalanceView | undefined;
  /** spec.replicas is a default that nobody set. */
  readonly fallen: boolean;
}
