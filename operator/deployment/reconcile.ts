// One pass over one MoEDeployment: gather, ask the pure core, act, report.
import { AppError, labels } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Applier } from "../kube/apply.ts";
import type { Outcome } from "../kube/controller.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers, PodOverlay } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { Identities } from "../pki/identity.ts";
import type { AcceptedSpecs } from "./accepted-specs.ts";
import { Autoscaler } from "./autoscaler.ts";
import type { Comparison } from "./core/canary.ts";
import { rankFloor, rememberedFloor } from "./core/capacity.ts";
import { withLosses } from "./core/loss.ts";
import { memoryRefusals } from "./core/memory-fit.ts";
import { currentOperation } from "./core/operation.ts";
import { gatewaysWait, orphanRemovals } from "./core/orphans.ts";
import { freeRanks, nextStep, type Step } from "./core/pod-actions.ts";
import { rolloutView } from "./core/rollout-status.ts";
import { type GatewayFacts, living, type PodFacts, type Snapshot } from "./core/snapshot.ts";
import { nextStatus } from "./core/status.ts";
import { targetRanks } from "./core/target.ts";
import { Deliveries } from "./delivery.ts";
import { execute } from "./execute.ts";
import { GatewaysFirst } from "./gateways-first.ts";
import { modelSwitch } from "./model-switch.ts";
import { names, ofModel, type RenderContext, type SeedWish, type Settings } from "./objects/context.ts";
import { modelPlace, oneNodeOnly, rankModelText } from "./objects/model-place.ts";
import { frontSelector } from "./objects/stand-in.ts";
import { gatewayFacts, gatewayModels, gatewayPods, type NodeHealth, nodesSeen, podFacts } from "./observe.ts";
import { findOrphans, isOfOther } from "./orphans.ts";
import type { Deployments, Rebalance, World } from "./ports.ts";
import type { ProgressTalks } from "./progress-talks.ts";
import { routeFacts } from "./route-facts.ts";
import { ServedWatch } from "./served-watch.ts";
import { type InForce, type ReadDeployment, readDeployment, SpecPass } from "./spec-pass.ts";
import { StandIns } from "./stand-ins.ts";
import type { StatusWriter } from "./status-writer.ts";
import type { TelemetrySecrets } from "./telemetry-secret.ts";
import { worldOf } from "./world-of.ts";

/** What is refused is looked at again after this, since it may have become possible unheard: an object was deleted, a quota raised. */
const refusedMs = 10_000;
/** A pod beside the wanted ranks that was refused, as by a quota, is tried again after this. */
const unmadeMs = 30_000;
/** A new leader needs this long to open its sessions with workers and NATS. */
const warmUpMs = 10_000;
/** The pass after a spec with another model was accepted. */
const switchMs = 10;

export interface ReconcileDeps {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly overlay: PodOverlay;
  readonly applier: Applier;
  readonly identities: Identities;
  readonly accepted: AcceptedSpecs;
  readonly telemetry: TelemetrySecrets;
  readonly status: StatusWriter;
  readonly rebalance: Rebalance;
  readonly talks: ProgressTalks;
  readonly settings: Settings;
  readonly event: Deployments["event"];
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

interface ClaimSight {
  readonly claim: Snapshot["claim"];
  /** It can be mounted on a single node. */
  readonly oneNode: boolean;
  readonly failure: AppError | undefined;
}

interface Place {
  readonly seeded: boolean;
  /** The claim, where it was looked at. */
  readonly sight: ClaimSight | undefined;
  /** The reason why nothing is settled. */
  readonly failure: AppError | undefined;
}

interface Observed {
  readonly snapshot: Snapshot;
  /** The error for which a part of the snapshot is not known. */
  readonly unobserved: AppError | undefined;
}

export class Reconciler {
  readonly #deps: ReconcileDeps;
  readonly #uids = new Map<string, string>();
  readonly #spec: SpecPass;
  readonly #deliveries: Deliveries;
  readonly #autoscaler: Autoscaler;
  readonly #standIns: StandIns;
  readonly #fronts: GatewaysFirst;
  readonly #startedMs: number;
  readonly #served = new ServedWatch();
  readonly #unmade = new Map<string, { readonly message: string; readonly until: number }>();

  constructor(deps: ReconcileDeps) {
    this.#deps = deps;
    this.#spec = new SpecPass(deps);
    this.#deliveries = new Deliveries(deps);
    this.#autoscaler = new Autoscaler(deps);
    this.#standIns = new StandIns(deps);
    this.#fronts = new GatewaysFirst(deps.ticks);
    this.#startedMs = deps.ticks();
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const { informers, accepted, status } = this.#deps;
    const key = `${ref.namespace}/${ref.name}`;
    const object = informers.get("moeDeployments", ref);
    // Deleted: owner references take the objects away, the sessions are ours to close.
    const present = object?.metadata.deletionTimestamp === undefined ? object : undefined;
    const known = this.#uids.get(key);
    if (known && known !== present?.metadata.uid) this.#forget(key, known);
    if (!present) return {};
    const { uid = "", generation: observedGeneration } = present.metadata;
    this.#uids.set(key, uid);
    try {
      const read = readDeployment(present, accepted.latest(uid));
      return await this.#converge({ ...read, deployment: { ...read.deployment, status: status.latest(read.deployment) } });
    } catch (error) {
      if (!hasCode(error, "InvalidSpec")) throw error;
      // A stored object that this version cannot read, and no spec to stand in for it: say so, touch nothing.
      const { code: reason, message } = error as AppError;
      await status.refuse(present, { type: "SpecAccepted", status: "False", reason, message, observedGeneration });
      return {};
    }
  }

  /** Goes on to pods and status whatever becomes of the spec: what is refused or fails in it must not stop the healing. */
  async #converge(read: ReadDeployment): Promise<Outcome> {
    const { settings } = this.#deps;
    const pods = this.#pods(read.deployment);
    const place = await this.#place(read.deployment, pods);
    const keeps = place.seeded ? this.#spec.seedKeeps(read.deployment, pods, this.#standIns) : undefined;
    const model = rankModelText(ofModel(read.deployment, keeps).spec);
    const serving = living(pods).some((pod) => pod.ready && pod.model === model);
    const delivery = await this.#deliveries.run({ deployment: read.deployment, settings }, { seeded: place.seeded, serving, keeps });
    const { seed, pending, revision, away, failure, againInMs } = delivery;
    // A claim that could not be looked at settles nothing.
    const undelivered = pending !== undefined || place.failure !== undefined;
    const aim = this.#spec.aim(read.deployment, pods, { undelivered: pending !== undefined, seed });
    const gateways = gatewayModels(this.#gatewayPods(read.deployment), this.#deps.now().getTime());
    const stands = read.deployment.spec.suspend ? "Same" : modelSwitch(aim, living(pods), gateways);
    const around = { gateway: this.#gateway(read.deployment), nodes: this.#nodes(read.deployment) };
    const standing = { deployment: read.deployment, pods, ...around, stands, aim };
    const standIn = this.#standIns.look(standing);
    // Without a stand-in the seed has the model first, while the ranks serve on.
    const free = stands === "Accepting" && !standIn?.holds;
    const [changes, untried] = [free && keeps === undefined, standIn?.holds === true || (free && keeps !== undefined)];
    // Until the last pod of another model is gone nothing is to be rendered but what a suspended deployment has.
    const deployment = stands === "Stopping" ? { ...read.deployment, spec: { ...read.deployment.spec, suspend: true } } : read.deployment;
    const wait = gatewaysWait(findOrphans(this.#deps, deployment), pods, deployment.spec);
    const front = standIn?.child && frontSelector(standIn.front, { own: deployment.metadata.name, standIn: standIn.child.name });
    const options = { undelivered: undelivered || untried, gatewaysWait: wait || changes, seed, front };
    const ran = await this.#spec.run({ ...read, deployment }, () => this.#pods(deployment), options);
    // A roll, rank by rank, would bring two models into one world.
    const inForce = changes ? { ...ran, successor: "Refused" as const } : ran;
    const well = ran.refusals.length === 0 && ran.failure === undefined;
    const unstood = standIn && (await this.#standIns.act(standing, standIn, well));
    const { snapshot, unobserved } = await this.#snapshot(deployment, inForce, place.sight);
    const seen = {
      ...snapshot,
      delivery: { pending, revision, away },
      switching: stands === "Stopping",
      standIn: well || standIn?.child ? standIn : undefined,
    };
    const outcome = await this.#proceed(inForce, { snapshot: seen, unobserved: unobserved ?? place.failure ?? failure ?? unstood, seed });
    // What the accepted spec says has changed just now: the next pass stops the pods of the other model.
    const waits = [outcome.requeueAfterMs, againInMs, standIn?.againInMs, free && well ? switchMs : undefined].filter(
      (ms) => ms !== undefined,
    );
    return waits.length === 0 ? outcome : { ...outcome, requeueAfterMs: Math.min(...waits) };
  }

  async #proceed(inForce: InForce, { snapshot, unobserved, seed }: Observed & { readonly seed: SeedWish | undefined }): Promise<Outcome> {
    const deps = this.#deps;
    const { deployment } = snapshot;
    const { template, successor, gang } = inForce;
    const context: RenderContext = { deployment, settings: deps.settings, gang };
    const { limitBytes } = template;
    const model = snapshot.view?.model;
    const floor = model ? rankFloor(deployment.spec, model, limitBytes) : rememberedFloor(deployment.status);
    const target = targetRanks(deployment, snapshot.now, { floor, fallen: await this.#autoscaler.hasFallen(deployment) });
    const unmade = this.#refusedBeside(deployment);
    const step = this.#held(snapshot, nextStep({ snapshot, ranks: target.ranks, successor, limitBytes, unmade }));
    // Before the pods: the kubelet tells a pod of a Secret that came after it a minute or two later.
    const unsigned = await this.#secureTelemetry(deployment);
    const { failure: undone, uncreated } = await execute(deps, context, inForce, step.actions);
    const beside = this.#noteBeside(snapshot, target.ranks, uncreated);
    const impossible = successor === "None" ? [...snapshot.refusals, ...(inForce.failure ? [inForce.failure] : [])] : [];
    const unmakable = impossible.map(({ message }) => message).join("; ");
    const cleared = await execute(deps, context, inForce, orphanRemovals(snapshot, target.ranks, uncreated || unmakable));
    const failures = [
      beside && undone?.message === uncreated ? undefined : undone,
      cleared.failure,
      await this.#certify(snapshot, seed !== undefined),
      unsigned,
      inForce.failure,
      unobserved,
    ];
    deps.rebalance.update(this.#world(snapshot, target.ranks));
    const memory = memoryRefusals(deployment.spec, model, target.ranks, limitBytes);
    const blocked = target.blocked ?? step.blocked;
    const operation = currentOperation({ snapshot, ranks: target.ranks, actions: step.actions, blocked, note: step.note });
    const rollout = rolloutView(snapshot, target.ranks, operation?.id);
    const scaling = await this.#autoscaler.run({ snapshot, floor, operation: operation?.type });
    const failure = [...failures, scaling?.failure].find((one) => one !== undefined);
    const status = nextStatus({
      snapshot,
      target,
      operation,
      rollout: rollout.status,
      refusals: [...snapshot.refusals, ...memory],
      blocked,
      floor,
      failures: step.failures,
      failure: failure?.message ?? "",
      unjudged: inForce.failure?.message ?? "",
      uncreated: (beside ? "" : uncreated) || unmakable,
      scaling,
    });
    const heldMs = await deps.status.write(deployment, status);
    const deadline = status.operation?.deadline;
    const untilDeadline = deadline ? Date.parse(deadline) - snapshot.now.getTime() + 1 : undefined;
    const againMs = snapshot.refusals.length > 0 || snapshot.conflicts.length > 0 || failure ? refusedMs : undefined;
    const waits = [
      target.settlesInMs,
      step.againInMs,
      rollout.againInMs,
      scaling?.againInMs,
      heldMs,
      untilDeadline,
      this.#warmMs(),
      againMs,
      this.#refusedBeside(deployment) === "" ? undefined : unmadeMs,
    ].filter((ms): ms is number => ms !== undefined && ms > 0);
    return { ...(waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) }), ...(failure ? { failure } : {}) };
  }

  #world(snapshot: Snapshot, desiredRanks: number): World {
    const gateways = gatewayPods(this.#gatewayPods(snapshot.deployment));
    return worldOf(snapshot, { desiredRanks, gateways, holdMs: this.#autoscaler.holdMs(snapshot) });
  }

  #held(snapshot: Snapshot, step: Step): Step {
    const gateways = gatewayModels(this.#gatewayPods(snapshot.deployment), this.#deps.now().getTime());
    return this.#fronts.held(step, snapshot, gateways.length);
  }

  #certify({ deployment, pods, orphans }: Snapshot, seed: boolean): Promise<AppError | undefined> {
    const running = living(pods).filter((pod) => !pod.terminating);
    const gateways = gatewaysWait(orphans, pods, deployment.spec) ? "wait" : "certify";
    return this.#deps.identities.ensureAll(deployment, running, { gateways, roles: seed ? ["seed"] : [] });
  }

  /** Whether ranks have the model from a seed: what is in no claim, or in one that a single node can mount. */
  async #place(deployment: MoEDeployment, pods: readonly PodFacts[]): Promise<Place> {
    const { settled, before } = this.#spec.seeds(deployment, pods);
    if (settled !== undefined) return { seeded: settled, sight: undefined, failure: undefined };
    const sight = await this.#claim(deployment);
    // A seed stays while nothing is known.
    return { seeded: sight.failure ? before : sight.oneNode, sight, failure: sight.failure };
  }

  async #secureTelemetry(deployment: MoEDeployment): Promise<AppError | undefined> {
    try {
      await this.#deps.telemetry.ensure(deployment);
      return undefined;
    } catch (caught) {
      return AppError.from(caught, "writing the telemetry Secret");
    }
  }

  /** True where all wanted ranks are there, and it was a pod beside them that could not be made: it is tried again later. */
  #noteBeside({ deployment, pods }: Snapshot, ranks: number, uncreated: string): boolean {
    if (uncreated === "" || freeRanks(living(pods), ranks).length > 0) return false;
    this.#unmade.set(deployment.metadata.uid, { message: uncreated, until: this.#deps.ticks() + unmadeMs });
    return true;
  }

  /** The reason why a pod beside the wanted ranks could not be made just now; empty when it may be tried (again). */
  #refusedBeside({ metadata: { uid } }: MoEDeployment): string {
    const last = this.#unmade.get(uid);
    if (last && this.#deps.ticks() < last.until) return last.message;
    this.#unmade.delete(uid);
    return "";
  }

  #warmMs(): number {
    return this.#startedMs + warmUpMs - this.#deps.ticks();
  }

  #pods(deployment: MoEDeployment): PodFacts[] {
    const { informers, overlay, rebalance, now } = this.#deps;
    const { uid } = deployment.metadata;
    const at = now().getTime();
    const ours = (pod: KubeObject) => pod.metadata.labels?.[labels.component] === "worker" && owns(pod, uid);
    const nodes = this.#nodes(deployment);
    const observed = overlay.merge(informers.ownedBy("pods", uid).filter(ours), ours).flatMap((pod) => podFacts(pod, nodes, at) ?? []);
    return withLosses(observed, rebalance.view(uid), this.#warmMs() > 0);
  }

  #nodes({ spec }: MoEDeployment): NodeHealth {
    return nodesSeen(this.#deps.informers, spec.scheduling.topology?.key);
  }

  #gateway(deployment: MoEDeployment): GatewayFacts {
    const { informers, now } = this.#deps;
    const { namespace, name, uid } = deployment.metadata;
    const front = { namespace, name: names.gateway(name) };
    const found = informers.get("deployments", front);
    const objects = {
      deployment: found && owns(found, uid) ? found : undefined,
      autoscaler: informers.get("horizontalPodAutoscalers", front),
    };
    return gatewayFacts(objects, this.#gatewayPods(deployment), now().getTime());
  }

  async #snapshot(deployment: MoEDeployment, inForce: InForce, sight: ClaimSight | undefined): Promise<Observed> {
    const { template, refusals, runtimeImage, rollout, conflicts } = inForce;
    const { informers, rebalance, now } = this.#deps;
    const { namespace, name, uid } = deployment.metadata;
    const pods = this.#pods(deployment);
    const way = informers.get("httpRoutes", { namespace, name });
    const route = routeFacts(informers.served(resources.httpRoutes, namespace), way && owns(way, uid) ? way : undefined);
    const settled = pods.length > 0 && pods.every((pod) => pod.ready);
    const { claim, failure } = settled ? { claim: "Present" as const, failure: undefined } : (sight ?? (await this.#claim(deployment)));
    const snapshot: Snapshot = {
      now: now(),
      deployment,
      pods,
      orphans: findOrphans(this.#deps, deployment),
      gateway: this.#gateway(deployment),
      route,
      templateHash: template.hash,
      rollout: rollout && { ...rollout, comparison: this.#compare(deployment, template.hash, pods) },
      runtimeImage,
      refusals,
      conflicts,
      claim,
      view: rebalance.view(uid),
      delivery: { pending: undefined, revision: undefined, away: "" },
      switching: false,
      warmingUp: this.#warmMs() > 0,
    };
    return { snapshot, unobserved: failure };
  }

  /** What canaries of this template and the other ranks served since the canaries bake; undefined while none do. */
  #compare({ metadata: { uid }, status }: MoEDeployment, templateHash: string, pods: readonly PodFacts[]): Comparison | undefined {
    const { bakeStart, templateHash: baking, bakedTemplateHash } = status.rollout ?? {};
    if (bakeStart === undefined || baking !== templateHash || bakedTemplateHash === templateHash) {
      this.#served.forget(uid);
      return undefined;
    }
    const members = this.#deps.rebalance.view(uid)?.members ?? [];
    const of = (isCanary: boolean) => ({ pods: pods.filter((pod) => (pod.templateHash === templateHash) === isCanary), members });
    return this.#served.compare({ uid, bake: `${templateHash}/${bakeStart}`, canaries: of(true), others: of(false) });
  }

  #gatewayPods({ metadata }: MoEDeployment): KubeObject[] {
    const isOurs = (pod: KubeObject) => pod.metadata.labels?.[labels.component] === "gateway" && !isOfOther(pod, metadata.uid);
    return this.#deps.informers.ofDeployment("pods", metadata).filter(isOurs);
  }

  async #claim(deployment: MoEDeployment): Promise<ClaimSight> {
    const { claim: name } = modelPlace(deployment.spec);
    if (name === undefined) return { claim: "Present", oneNode: false, failure: undefined };
    try {
      const found = await this.#deps.kube.get(resources.persistentVolumeClaims, { namespace: deployment.metadata.namespace, name });
      return { claim: found ? "Present" : "Missing", oneNode: found !== undefined && oneNodeOnly(found), failure: undefined };
    } catch (error) {
      return { claim: "Unknown", oneNode: false, failure: AppError.from(error, "looking for the model's claim") };
    }
  }

  #forget(key: string, uid: string): void {
    this.#uids.delete(key);
    this.#unmade.delete(uid);
    this.#served.forget(uid);
    this.#autoscaler.forget(uid);
    this.#standIns.forget(uid);
    this.#fronts.forget(uid);
    this.#spec.forget(uid);
    this.#deliveries.forget(uid, key);
    this.#deps.rebalance.forget(uid);
    this.#deps.identities.forget(uid);
    this.#deps.telemetry.forget(uid);
    this.#deps.status.forget(uid);
    this.#deps.applier.forget(uid);
  }
}

const owns = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
