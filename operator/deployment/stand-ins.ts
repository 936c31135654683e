// The shell around core/stand-in.ts: gathers what is there of a deployment's stand-in, and makes, stops and deletes it. A stand-in is made
// once and never changed but for its stop; everything may be repeated.
import { AppError, labels } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { parseDuration } from "../../crds/quantity.ts";
import { budgetsOf } from "../../crds/rollout.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import { manager } from "./apply.ts";
import { rollsBackOn } from "./core/rollout.ts";
import { type GatewayFacts, living, type PodFacts, wantedGateways } from "./core/snapshot.ts";
import { judgeStandIn, type StandInInput, standInStep } from "./core/stand-in.ts";
import type { Front, StandInFacts, StandInLook } from "./core/stand-in-look.ts";
import type { Informers } from "./informers.ts";
import { rankModelText } from "./objects/model-place.ts";
import { standIn, standInName } from "./objects/stand-in.ts";
import { type NodeHealth, podFacts } from "./observe.ts";
import type { Deployments } from "./ports.ts";
import type { Aim } from "./spec-pass.ts";

/** A stand-in that was refused is tried again after this, where the deployment has not changed its model without by then. */
const unmadeMs = 30_000;

export interface StandInDeps {
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get" | "ofDeployment" | "ownedBy">;
  readonly event: Deployments["event"];
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

/** The deployment as it stands. */
export interface Standing {
  readonly deployment: MoEDeployment;
  readonly pods: readonly PodFacts[];
  readonly gateway: GatewayFacts;
  readonly nodes: NodeHealth;
  readonly stands: StandInInput["stands"];
  readonly aim: Aim;
}

export class StandIns {
  readonly #deps: StandInDeps;
  /** By the deployment's uid: why a stand-in of that name was refused. */
  readonly #unmade = new Map<string, { readonly name: string; readonly message: string; readonly until: number }>();

  constructor(deps: StandInDeps) {
    this.#deps = deps;
  }

  /** What is to be done now; undefined where there is no stand-in and none is to be made. */
  look(standing: Standing): StandInLook | undefined {
    const { deployment, aim } = standing;
    const { spec, status } = deployment;
    const child = this.#child(standing);
    const possible = this.#possible(standing);
    const step = standInStep({
      now: this.#deps.now(),
      possible,
      stands: standing.stands,
      wanted: !spec.suspend && spec.replicas > 0,
      own: ownFacts(standing),
      child,
      front: this.#front(deployment, child),
      rollsBack: rollsBackOn(spec.rolloutStrategy),
      drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
      last: status.rollout?.standIn,
    });
    const unmade = this.#unmade.get(deployment.metadata.uid);
    const refused = step.act === "Create" && unmade?.name === possible ? unmade : undefined;
    if (!step.status || refused) return undefined;
    return { ...step, child, templateHash: aim.wanted.templates[0] ?? "" };
  }

  /** Carries out what was found. `accepted`: nothing of the spec is refused, so that another deployment of it can be. */
  async act(standing: Standing, { act, child, holds, message, phase }: StandInLook, accepted: boolean): Promise<AppError | undefined> {
    const { deployment } = standing;
    if (phase === "Creating" && !holds) this.#deps.event(deployment, "Warning", "NoRoomForStandIn", message);
    const { namespace } = deployment.metadata;
    try {
      if (act === "Create" && accepted) await this.#create(standing);
      if (!child) return undefined;
      const { name, uid } = child;
      const ref = { namespace, name };
      if (act === "Suspend") {
        await this.#deps.kube.patch(resources.moeDeployments, ref, { metadata: { uid }, spec: { suspend: true } }, { manager });
        this.#deps.event(deployment, "Normal", "StandInStops", `stand-in ${name} is not needed any more`);
      }
      if (act === "Delete") await this.#deps.kube.delete(resources.moeDeployments, ref, { uid });
      return undefined;
    } catch (caught) {
      // Somebody deleted it: the next look finds none.
      if (hasCode(caught, "NotFound", "Conflict")) return undefined;
      return AppError.from(caught, "changing the stand-in");
    }
  }

  forget(uid: string): void {
    this.#unmade.delete(uid);
  }

  async #create(standing: Standing): Promise<void> {
    const { deployment, aim, gateway } = standing;
    const { uid, namespace } = deployment.metadata;
    const selector = `${labels.standsInFor}=${deployment.metadata.name}`;
    const { items } = await this.#deps.kube.list(resources.moeDeployments, { namespace, labelSelector: selector });
    if (items.some((object) => isOf(object, uid))) return; // the cache does not show it yet
    const { templates, image } = aim.wanted;
    const object = standIn({ deployment, templates, image, gateways: Math.max(1, wantedGateways({ deployment, gateway })) });
    try {
      await this.#deps.kube.create(resources.moeDeployments, object, { manager });
      this.#deps.event(deployment, "Normal", "StandInCreated", `stand-in ${object.metadata.name} starts with ${deployment.spec.model.uri}`);
    } catch (caught) {
      if (!hasCode(caught, "AlreadyExists", "Invalid", "Forbidden")) throw caught;
      const { message } = AppError.from(caught);
      this.#unmade.set(uid, { name: object.metadata.name, message, until: this.#deps.ticks() + unmadeMs });
      this.#deps.event(deployment, "Warning", "StandInRefused", `all ranks stop before others start: ${message}`);
    }
  }

  /** The name of a stand-in that the strategy allows. A stand-in has none itself. */
  #possible({ deployment, aim }: Standing): string | undefined {
    const { uid, labels: marks } = deployment.metadata;
    const { rolloutStrategy, replicas } = deployment.spec;
    if (marks?.[labels.standsInFor] !== undefined || budgetsOf(rolloutStrategy, replicas).surge === 0) return undefined;
    const unmade = this.#unmade.get(uid);
    if (unmade && this.#deps.ticks() >= unmade.until) this.#unmade.delete(uid);
    return standInName({ deployment, templates: aim.wanted.templates });
  }

  #child({ deployment, nodes }: Standing): StandInFacts | undefined {
    const { informers, now } = this.#deps;
    const { metadata, spec } = deployment;
    const owned = informers.ownedBy("moeDeployments", metadata.uid);
    const front = informers.get("services", metadata)?.spec as { selector?: Record<string, string> } | undefined;
    const object = owned.find((one) => one.metadata.name === front?.selector?.[labels.deployment]) ?? owned[0];
    if (!object) return undefined;
    const { name, uid = "", generation = 0, deletionTimestamp, creationTimestamp } = object.metadata;
    const all = informers.ofDeployment("pods", { namespace: metadata.namespace, name });
    const workers = all.filter((pod) => pod.metadata.labels?.[labels.component] === "worker");
    const pods = workers.flatMap((pod) => podFacts(pod, nodes, now().getTime()) ?? []).map((pod) => ({ ...pod, lost: false }));
    const { conditions = [], gateway, observedGeneration = 0 } = moeDeploymentStatusSchema.safeParse(object.status ?? {}).data ?? {};
    const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
    const suspended = (object.spec as { suspend?: unknown } | undefined)?.suspend === true;
    const fronts = (gateway?.readyReplicas ?? 0) >= Math.max(1, gateway?.replicas ?? 1);
    const { progressDeadline } = spec.rolloutStrategy;
    const createdMs = Date.parse(creationTimestamp ?? "") || now().getTime();
    return {
      name,
      uid,
      terminating: deletionTimestamp !== undefined,
      suspended,
      serves: observedGeneration >= generation && holds("Ready") && holds("Available") && fronts,
      pods: all.length,
      ...judgeStandIn({ createdMs, conditions, pods }, { progressDeadline, now: now() }),
    };
  }

  #front({ metadata }: MoEDeployment, child: StandInFacts | undefined): Front {
    const { selector } = (this.#deps.informers.get("services", metadata)?.spec ?? {}) as { selector?: Record<string, string> };
    return child !== undefined && selector?.[labels.deployment] === child.name ? "StandIn" : "Own";
  }
}

function ownFacts({ deployment, pods, gateway, aim }: Standing): StandInInput["own"] {
  const { aim: spec } = aim;
  const ready = living(pods).filter((pod) => pod.ready && !pod.terminating && !pod.leaving);
  const same = spec ? ready.filter(({ model }) => model === undefined || model === rankModelText(spec)) : [];
  const gateways = wantedGateways({ deployment, gateway });
  return {
    serves: ready.length > 0 && gateway.ready > 0,
    whole: same.length >= deployment.spec.replicas && gateway.ready >= Math.max(1, gateways),
  };
}

const isOf = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
