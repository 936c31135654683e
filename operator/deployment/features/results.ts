// The results of the features of a decision. Types only.

import type { AppError } from "../../../crds/common.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { Operation } from "../../../crds/operation.ts";
import type { Gang } from "../../gangs/gang.ts";
import type { Absent, Rendered } from "../../kube/apply.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { Role } from "../../pki/names.ts";
import type { AcceptedRevision } from "../state/accepted-specs.ts";
import type { AutoscaleInput, Decision as ScaleDecision } from "./autoscale/decide.ts";
import type { GreenInput } from "../core/blue-green.ts";
import type { Reckoned } from "../core/capacity.ts";
import type { Pending } from "../core/delivery.ts";
import type { GreenLook } from "../core/green-look.ts";
import type { Memory } from "../core/memory.ts";
import type { Action as PodAction, Step, Successor } from "./pod-actions.ts";
import type { RolloutView } from "./rollout-status.ts";
import type { RolloutFacts, RuntimeImage, Snapshot } from "../core/snapshot.ts";
import type { Target } from "../core/target.ts";
import type { ModelOf, RenderContext, WeightServerWish } from "../objects/context.ts";
import type { WorkerTemplate } from "../objects/worker-pod.ts";

/** The model that the weight server keeps although the spec names another. `asks`: the spec is not judged yet. */
export interface KeptModel extends ModelOf {
  readonly asks: boolean;
}

export interface Source {
  /** Undefined where the weight server has the spec's model. */
  readonly keeps: KeptModel | undefined;
  readonly serving: boolean;
}

export type DeliveryAction =
  | { readonly type: "certify"; readonly role: Role }
  | { readonly type: "deleteJob"; readonly name: string; readonly uid: string }
  | { readonly type: "createJob"; readonly name: string; readonly job: KubeObject }
  | { readonly type: "ask"; readonly uid: string; readonly ip: string }
  | { readonly type: "stopAsking" };

export interface Delivery {
  readonly pending: Pending | undefined;
  readonly revision: string | undefined;
  /** What starting ranks wait for while others serve; empty when nothing. */
  readonly away: string;
  /** Undefined where ranks mount the model. */
  readonly weightServer: WeightServerWish | undefined;
  readonly actions: readonly DeliveryAction[];
  readonly againInMs: number | undefined;
}

export interface Aim {
  /** The spec whose model all pods are to have. */
  readonly aim: MoEDeploymentSpec | undefined;
  readonly accepted: MoEDeploymentSpec | undefined;
  /** The template hashes of workers and gateways, and the ranks' image, by the spec as written. */
  readonly wanted: { readonly templates: readonly [string, string]; readonly image: string };
  readonly stands: GreenInput["stands"];
}

export interface BlueGreen {
  readonly look: GreenLook | undefined;
  readonly remember: Pick<Memory, "greenNoCapacity" | "greenBake">;
}

interface Change {
  /** The deployment as rendered: suspended until the last pod of another model is gone. */
  readonly deployment: MoEDeployment;
  readonly gatewaysWait: boolean;
  /** The model is missing, so that the spec is checked but not accepted. */
  readonly undelivered: boolean;
  /** All ranks change their model at once, without a green deployment. */
  readonly atOnce: boolean;
  /** This pass accepts the spec, and the next one stops pods of the other model. */
  readonly switches: boolean;
  readonly front: RenderContext["front"];
}

interface Objects {
  readonly context: RenderContext;
  readonly gang: Gang | undefined;
  readonly apply: readonly Rendered[];
  readonly absent: readonly Absent[];
  /** Refusals that need no answer of the API server. */
  readonly unsupported: readonly Refusal[];
  /** A dry run of the worker pod can judge the spec. */
  readonly judges: boolean;
  readonly held: boolean;
  readonly acceptable: boolean;
}

export interface Answers {
  readonly refusals: readonly Refusal[];
  readonly conflicts: readonly string[];
  readonly kept: boolean;
  readonly successor: Successor;
  readonly revisions: readonly AcceptedRevision[];
  /** The first error that prevents both acceptance and refusal. */
  readonly failure: AppError | undefined;
  readonly deliveryFailure: AppError | undefined;
  readonly againInMs: number | undefined;
  readonly remember: Pick<Memory, "dryRuns" | "jobRefused">;
}

interface Spec {
  /** Template of new pods; unused with a successor of `None`. */
  readonly template: WorkerTemplate;
  /** Lost ranks that keep the old template get this one; undefined if unknown. */
  readonly stable: WorkerTemplate | undefined;
  readonly successor: Successor;
  readonly rollout: RolloutFacts | undefined;
  readonly runtimeImage: RuntimeImage | undefined;
  readonly refusals: readonly Refusal[];
  readonly conflicts: readonly string[];
  readonly failure: AppError | undefined;
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
  /** The fewest ranks that hold all experts. */
  readonly floor: Reckoned | undefined;
  readonly memoryRefusals: readonly Refusal[];
}

interface Repair {
  readonly step: Step;
  readonly orphans: readonly PodAction[];
  readonly remember: Pick<Memory, "gatewaysSinceMs">;
}

export interface Progress {
  readonly operation: Operation | undefined;
  readonly rollout: RolloutView;
}

export interface Scale {
  readonly input: AutoscaleInput | undefined;
  readonly decision: ScaleDecision | undefined;
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
  /** The pass adds these between the halves (DECISIONS.md 1). */
  readonly answers: Answers;
  readonly spec: Spec;
  readonly facts: Facts;
  readonly ranks: Ranks;
  readonly repair: Repair;
  readonly progress: Progress;
  readonly scale: Scale;
}
