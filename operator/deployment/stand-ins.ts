// The shell around core/stand-in.ts: gathers what is there of a deployment's stand-in, and makes, stops and deletes it. A stand-in is made
// once and never changed but for its sizes and its stop; everything may be repeated.

import { AppError, labels } from "../../crds/common.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import { moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { parseDuration } from "../../crds/quantity.ts";
import { budgetsOf } from "../../crds/rollout.ts";
import type { StandInStatus } from "../../crds/stand-in.ts";
import { manager } from "../kube/adoption.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { Comparison } from "./core/canary.ts";
import { rollsBackOn } from "./core/rollout.ts";
import { type GatewayFacts, living, type PodFacts, wantedGateways } from "./core/snapshot.ts";
import { canaryGateways, judgeStandIn, type StandInInput, standInStep } from "./core/stand-in.ts";
import type { Front, Sizes, StandInFacts, StandInLook } from "./core/stand-in-look.ts";
import { rankModelText } from "./objects/model-place.ts";
import { standIn, standInName } from "./objects/stand-in.ts";
import { type NodeHealth, podFacts } from "./observe.ts";
import type { Deployments, Rebalance } from "./ports.ts";
import { ServedWatch } from "./served-watch.ts";
import type { Aim } from "./spec-pass.ts";

/** A stand-in that was refused is tried again after this, where the deployment has not changed its model without by then. */
const unmadeMs = 30_000;

export interface StandInDeps {
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get" | "ofDeployment" | "ownedBy">;
  readonly rebalance: Pick<Rebalance, "view">;
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
  /** By the deployment's uid: the name of the stand-in that found no room, until the spec is another. */
  readonly #roomless = new Map<string, string>();
  readonly #served = new ServedWatch();

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
      analysis: spec.rolloutStrategy.canary?.analysis,
      comparison: this.#compare(standing, child),
      sizes: sizesOf(standing),
      drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
      last: status.rollout?.standIn,
    });
    const unmade = this.#unmade.get(deployment.metadata.uid);
    const refused = step.act === "Create" && unmade?.name === possible ? unmade : undefined;
    const noRoom =
      standing.stands === "Accepting" && (refused !== undefined || (child !== undefined && child.noRoom !== "" && !step.holds));
    if (noRoom && possible !== undefined) this.#roomless.set(deployment.metadata.uid, possible);
    if (!step.status || refused) return undefined;
    return { ...step, child, templateHash: aim.wanted.templates[0] ?? "" };
  }

  /** Carries out what was found. `accepted`: nothing of the spec is refused, so that another deployment of it can be. */
  async act(standing: Standing, { act, child, holds, message, phase }: StandInLook, accepted: boolean): Promise<AppError | undefined> {
    const { deployment } = standing;
    if (phase === "Creating" && !holds) this.#deps.event(deployment, "Warning", "NoRoomForStandIn", message);
    const { namespace } = deployment.metadata;
    const { ranks, gateways } = sizesOf(standing);
    try {
      if (act === "Create" && accepted) await this.#create(standing);
      if (!child) return undefined;
      const { name, uid } = child;
      const ref = { namespace, name };
      if (holds && deployment.spec.rolloutStrategy.canary) await this.#mark(deployment.metadata, name);
      if (act === "Widen") {
        const spec = { replicas: Math.max(child.sizes.ranks, ranks), gateway: { replicas: Math.max(child.sizes.gateways, gateways) } };
        await this.#deps.kube.patch(resources.moeDeployments, ref, { metadata: { uid }, spec }, { manager });
      }
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

  /** Ranks serve on as they are, as far as is known, while a stand-in tries that spec. */
  tries(deployment: MoEDeployment, templates: Aim["wanted"]["templates"], pods: readonly PodFacts[]): boolean {
    if (!mayStandIn(deployment) || this.#roomless.get(deployment.metadata.uid) === standInName({ deployment, templates })) return false;
    const phase = deployment.status.rollout?.standIn?.phase;
    return living(pods).some(({ ready }) => ready) || (phase !== undefined && phase !== "Serving" && phase !== "Leaving");
  }

  forget(uid: string): void {
    this.#unmade.delete(uid);
    this.#roomless.delete(uid);
    this.#served.forget(uid);
  }

  /** What both have served since the stand-in bakes. */
  #compare({ deployment, pods, nodes }: Standing, child: StandInFacts | undefined): Comparison | undefined {
    const { metadata, status } = deployment;
    const { standIn } = status.rollout ?? {};
    if (!child || standIn?.name !== child.name || standIn.phase !== "Baking") {
      this.#served.forget(metadata.uid);
      return undefined;
    }
    const members = (uid: string) => this.#deps.rebalance.view(uid)?.members ?? [];
    return this.#served.compare({
      uid: metadata.uid,
      bake: `${child.name}/${standIn.since}`,
      canaries: { pods: this.#workers({ namespace: metadata.namespace, name: child.name }, nodes), members: members(child.uid) },
      others: { pods: living(pods), members: members(metadata.uid) },
    });
  }

  /** Gateways that an earlier release made do not say whose clients they may get. */
  async #mark(own: Ref, standIn: string): Promise<void> {
    const { namespace, name } = own;
    for (const { metadata } of this.#gatewayPods(own, standIn).filter((pod) => !isMarked(pod, name)))
      try {
        const change = { metadata: { uid: metadata.uid, labels: { [labels.front]: name } } };
        await this.#deps.kube.patch(resources.pods, { namespace, name: metadata.name }, change, { manager });
      } catch (caught) {
        if (!hasCode(caught, "NotFound", "Conflict")) throw caught; // it is gone
      }
  }

  #gatewayPods({ namespace, name }: Ref, standIn: string): KubeObject[] {
    const pods = [name, standIn].flatMap((one) => this.#deps.informers.ofDeployment("pods", { namespace, name: one }));
    return pods.filter(({ metadata }) => metadata.labels?.[labels.component] === "gateway" && metadata.deletionTimestamp === undefined);
  }

  #workers(ref: Ref, nodes: NodeHealth): PodFacts[] {
    const workers = this.#deps.informers.ofDeployment("pods", ref).filter((pod) => pod.metadata.labels?.[labels.component] === "worker");
    return workers.flatMap((pod) => podFacts(pod, nodes, this.#deps.now().getTime()) ?? []).map((pod) => ({ ...pod, lost: false }));
  }

  async #create(standing: Standing): Promise<void> {
    const { deployment, aim } = standing;
    const { uid, namespace } = deployment.metadata;
    const selector = `${labels.standsInFor}=${deployment.metadata.name}`;
    const { items } = await this.#deps.kube.list(resources.moeDeployments, { namespace, labelSelector: selector });
    if (items.some((object) => isOf(object, uid))) return; // the cache does not show it yet
    const { templates, image } = aim.wanted;
    const gateways = canaryGateways(deployment.spec, sizesOf(standing).gateways);
    const object = standIn({ deployment, templates, image, gateways });
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
    const { uid } = deployment.metadata;
    const { templates } = aim.wanted;
    const name = standInName({ deployment, templates });
    if (aim.accepted && rankModelText(aim.accepted) === rankModelText(deployment.spec)) this.#roomless.delete(uid);
    if (!mayStandIn(deployment) || this.#roomless.get(uid) === name) return undefined;
    const unmade = this.#unmade.get(uid);
    if (unmade && this.#deps.ticks() >= unmade.until) this.#unmade.delete(uid);
    return name;
  }

  #child({ deployment, nodes }: Standing): StandInFacts | undefined {
    const { informers, now } = this.#deps;
    const { metadata } = deployment;
    const owned = informers.ownedBy("moeDeployments", metadata.uid);
    const front = informers.get("services", metadata)?.spec as { selector?: Record<string, string> } | undefined;
    const object = owned.find((one) => one.metadata.name === front?.selector?.[labels.deployment]) ?? owned[0];
    if (!object) return undefined;
    const { name, uid = "", generation = 0, deletionTimestamp, creationTimestamp } = object.metadata;
    const ref = { namespace: metadata.namespace, name };
    const all = informers.ofDeployment("pods", ref);
    const pods = this.#workers(ref, nodes);
    const { conditions = [], gateway, observedGeneration = 0 } = moeDeploymentStatusSchema.safeParse(object.status ?? {}).data ?? {};
    const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
    const spec = object.spec as Partial<Pick<MoEDeploymentSpec, "suspend" | "replicas" | "gateway">> | undefined;
    const suspended = spec?.suspend === true;
    const fronts = (gateway?.readyReplicas ?? 0) >= Math.max(1, gateway?.replicas ?? 1);
    const { progressDeadline } = deployment.spec.rolloutStrategy;
    const createdMs = Date.parse(creationTimestamp ?? "") || now().getTime();
    const { standIn: last } = deployment.status.rollout ?? {};
    const startMs = last?.name === name ? startOf(last, { createdMs, nowMs: now().getTime() }) : createdMs;
    return {
      name,
      uid,
      terminating: deletionTimestamp !== undefined,
      suspended,
      serves: observedGeneration >= generation && holds("Ready") && holds("Available") && fronts,
      pods: all.length,
      sizes: { ranks: spec?.replicas ?? 0, gateways: spec?.gateway?.replicas ?? 1 },
      marked: this.#gatewayPods(metadata, name).every((pod) => isMarked(pod, metadata.name)),
      ...judgeStandIn({ startMs, conditions, pods }, { progressDeadline, now: now() }),
    };
  }

  #front({ metadata }: MoEDeployment, child: StandInFacts | undefined): Front {
    const { selector } = (this.#deps.informers.get("services", metadata)?.spec ?? {}) as { selector?: Record<string, string> };
    if (child === undefined) return "Own";
    if (selector?.[labels.front] !== undefined) return "Both";
    return selector?.[labels.deployment] === child.name ? "StandIn" : "Own";
  }
}

/** The strategy has room for a stand-in, and it is none itself. */
function mayStandIn({ metadata, spec }: MoEDeployment): boolean {
  return metadata.labels?.[labels.standsInFor] === undefined && budgetsOf(spec.rolloutStrategy, spec.replicas).surge > 0;
}

const isMarked = ({ metadata }: KubeObject, name: string): boolean => metadata.labels?.[labels.front] === name;

const sizesOf = (standing: Standing): Sizes => ({
  ranks: standing.deployment.spec.replicas,
  gateways: Math.max(1, wantedGateways(standing)),
});

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

/** What serves has no time to come to serve; where it stops, or waits for more gateways, that begins anew. */
function startOf({ phase, since }: StandInStatus, { createdMs, nowMs }: { readonly createdMs: number; readonly nowMs: number }): number {
  return phase === "Baking" ? nowMs : Math.max(createdMs, Math.min(nowMs, Date.parse(since)));
}

const isOf = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
