// What each feature of a decision finds, by its name. Types only.

import type { AppError } from "../../../crds/common.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { Operation } from "../../../crds/operation.ts";
import type { Gang } from "../../gangs/gang.ts";
import type { Absent, Rendered } from "../../kube/apply.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { Role } from "../../pki/names.ts";
import type { AcceptedRevision } from "../accepted-specs.ts";
import type { AutoscaleInput, Decision as ScaleDecision } from "../core/autoscale/decide.ts";
import type { GreenInput } from "../core/blue-green.ts";
import type { Reckoned } from "../core/capacity.ts";
import type { Pending } from "../core/delivery.ts";
import type { GreenLook } from "../core/green-look.ts";
import type { Memory } from "../core/memory.ts";
import type { Action as PodAction, Step, Successor } from "../core/pod-actions.ts";
import type { RolloutView } from "../core/rollout-status.ts";
import type { RolloutFacts, RuntimeImage, Snapshot } from "../core/snapshot.ts";
import type { Target } from "../core/target.ts";
import type { ModelOf, RenderContext, WeightServerWish } from "../objects/context.ts";
import type { WorkerTemplate } from "../objects/worker-pod.ts";

/** The model of the ranks, which their weight server keeps though the spec has another. `asks`: nobody knows yet whether the spec is refused. */
export interface KeptModel extends ModelOf {
  readonly asks: boolean;
}

export interface Source {
  /** The model that the weight server keeps; undefined where it has the spec's, or there is none. */
  readonly keeps: KeptModel | undefined;
  /** A rank has opened that model, and serves. */
  readonly serving: boolean;
}

export type DeliveryAction =
  | { readonly type: "certify"; readonly role: Role }
  | { readonly type: "deleteJob"; readonly name: string; readonly uid: string }
  | { readonly type: "createJob"; readonly name: string; readonly job: KubeObject }
  /** Asks the pod how far it is. */
  | { readonly type: "ask"; readonly uid: string; readonly ip: string }
  | { readonly type: "stopAsking" };

export interface Delivery {
  readonly pending: Pending | undefined;
  /** The commit that the model was taken from, where it is known. */
  readonly revision: string | undefined;
  /** What ranks that start wait for while others serve; empty when the weight server is there. */
  readonly away: string;
  /** The weight server as it is to be; undefined where ranks mount the model. */
  readonly weightServer: WeightServerWish | undefined;
  readonly actions: readonly DeliveryAction[];
  readonly againInMs: number | undefined;
}

export interface Aim {
  /** The spec whose model all pods are to have. */
  readonly aim: MoEDeploymentSpec | undefined;
  readonly accepted: MoEDeploymentSpec | undefined;
  /** Of the spec as it stands: hashes of the templates of workers and gateways, and the image of ranks. */
  readonly wanted: { readonly templates: readonly [string, string]; readonly image: string };
  /** Whether all pods have that model. */
  readonly stands: GreenInput["stands"];
}

export interface BlueGreen {
  /** Undefined where there is no green deployment and none is to be made. */
  readonly look: GreenLook | undefined;
  readonly remember: Pick<Memory, "greenNoCapacity" | "greenBake">;
}

interface Change {
  /** The deployment as it is rendered: suspended until the last pod of another model is gone. */
  readonly deployment: MoEDeployment;
  /** Gateways stay as they are. */
  readonly gatewaysWait: boolean;
  /** The model is not there yet, or not tried: the API server is asked about the spec, and it is not accepted. */
  readonly undelivered: boolean;
  /** All ranks change their model at once, without a green deployment. */
  readonly atOnce: boolean;
  /** The spec is accepted in this pass, and the next one stops pods of the other model. */
  readonly switches: boolean;
  readonly front: RenderContext["front"];
}

/** What the API server is asked about the spec. */
interface Objects {
  readonly context: RenderContext;
  readonly gang: Gang | undefined;
  readonly apply: readonly Rendered[];
  readonly absent: readonly Absent[];
  /** What of the spec cannot be, whatever the API server says. */
  readonly unsupported: readonly Refusal[];
  /** A dry run of the worker pod says something. */
  readonly judges: boolean;
  /** The strategy keeps the ranks of the model before. */
  readonly held: boolean;
  /** The spec is put in force where nothing is refused. */
  readonly acceptable: boolean;
}

/** What the API server said. */
export interface Answers {
  readonly refusals: readonly Refusal[];
  readonly conflicts: readonly string[];
  readonly kept: boolean;
  readonly successor: Successor;
  readonly revisions: readonly AcceptedRevision[];
  /** The first error for which the spec could be neither put in force nor refused. */
  readonly failure: AppError | undefined;
  readonly deliveryFailure: AppError | undefined;
  readonly againInMs: number | undefined;
  readonly remember: Pick<Memory, "dryRuns" | "jobRefused">;
}

interface Spec {
  /** The template that pods are made of; of no use with a successor of `None`. */
  readonly template: WorkerTemplate;
  /** The template of lost ranks that keep theirs; undefined where it is not known. */
  readonly stable: WorkerTemplate | undefined;
  readonly successor: Successor;
  /** Undefined where no spec is in force. */
  readonly rollout: RolloutFacts | undefined;
  /** Undefined where no spec is in force. */
  readonly runtimeImage: RuntimeImage | undefined;
  readonly refusals: readonly Refusal[];
  readonly conflicts: readonly string[];
  readonly failure: AppError | undefined;
  /** Nothing is refused, and nothing failed. */
  readonly good: boolean;
}

export type GreenAction =
  | { readonly type: "createGreen"; readonly object: KubeObject; readonly uri: string }
  | { readonly type: "widenGreen"; readonly name: string; readonly uid: string; readonly spec: object }
  | { readonly type: "stopGreen"; readonly name: string; readonly uid: string }
  | { readonly type: "deleteGreen"; readonly name: string; readonly uid: string }
  | { readonly type: "noCapacity"; readonly message: string };

export interface Facts {
  readonly snapshot: Snapshot;
  readonly greenActions: readonly GreenAction[];
  readonly remember: Pick<Memory, "canaryBake">;
}

export interface Ranks {
  readonly target: Target;
  /** The least ranks that hold all experts, where that is known. */
  readonly floor: Reckoned | undefined;
  readonly memoryRefusals: readonly Refusal[];
}

interface Repair {
  readonly step: Step;
  /** Pods of a deleted deployment of this name that are to go. */
  readonly orphans: readonly PodAction[];
  readonly remember: Pick<Memory, "gatewaysSinceMs">;
}

export interface Progress {
  readonly operation: Operation | undefined;
  readonly rollout: RolloutView;
}

export interface Scale {
  /** Undefined where the spec asks for no autoscaling. */
  readonly input: AutoscaleInput | undefined;
  readonly decision: ScaleDecision | undefined;
  /** Nobody has to be asked: the number stays. */
  readonly quiet: boolean;
  readonly remember: Pick<Memory, "autoscaleHistory" | "zero" | "ownerSeen">;
}

export interface Results {
  readonly source: Source;
  readonly delivery: Delivery;
  readonly aim: Aim;
  readonly blueGreen: BlueGreen;
  readonly change: Change;
  readonly objects: Objects;
  /** No feature makes these: the pass asks between the two halves of a decision. */
  readonly answers: Answers;
  readonly spec: Spec;
  readonly facts: Facts;
  readonly ranks: Ranks;
  readonly repair: Repair;
  readonly progress: Progress;
  readonly scale: Scale;
}
