// One pass over one MoEDeployment: gather, ask the pure core, act, report. Level-triggered: nothing is remembered but caches.
import { AppError, labels } from "../../crds/common.ts";
import { type MoEDeployment, parseModelUri, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { Outcome } from "../kube/controller.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { Applier } from "./apply.ts";
import { rankFloor, rememberedFloor } from "./core/capacity.ts";
import { withLosses } from "./core/loss.ts";
import { memoryRefusals } from "./core/memory-fit.ts";
import { nextStep } from "./core/pod-actions.ts";
import { living, type PodFacts, type Refusal, type Snapshot } from "./core/snapshot.ts";
import { nextStatus } from "./core/status.ts";
import { targetRanks } from "./core/target.ts";
import { dryRun, execute } from "./execute.ts";
import { type Identities, secretProblems } from "./identity.ts";
import type { Informers, PodOverlay } from "./informers.ts";
import { names, type RenderContext, type Settings } from "./objects/context.ts";
import { gatewayTemplate } from "./objects/gateway.ts";
import { appliedObjects } from "./objects/index.ts";
import { type WorkerTemplate, workerTemplate } from "./objects/worker-pod.ts";
import { gatewayFacts, gatewayPods, nodeHealth, podFacts } from "./observe.ts";
import type { Deployments, Rebalance, World } from "./ports.ts";
import type { StatusWriter } from "./status-writer.ts";

/** The answer of a dry run stands for this long; a quota or a policy may change without us hearing of it. */
const dryRunMs = 30_000;
/** A refused action is tried again after this, since it may have become possible unheard: an object was deleted, a quota raised. */
const refusedMs = 10_000;
/** A new leader needs this long to open its sessions with workers and NATS. */
const warmUpMs = 10_000;

export interface ReconcileDeps {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly overlay: PodOverlay;
  readonly applier: Applier;
  readonly identities: Identities;
  readonly status: StatusWriter;
  readonly rebalance: Rebalance;
  readonly settings: Settings;
  readonly event: Deployments["event"];
  readonly now: () => Date;
}

export class Reconciler {
  readonly #deps: ReconcileDeps;
  readonly #uids = new Map<string, string>();
  readonly #dryRuns = new Map<string, { hash: string; at: number; problem: string | undefined }>();

  readonly #startedMs: number;

  constructor(deps: ReconcileDeps) {
    this.#deps = deps;
    this.#startedMs = deps.now().getTime();
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const key = `${ref.namespace}/${ref.name}`;
    const object = this.#deps.informers.get("moeDeployments", ref);
    // Deleted: owner references take the objects away, the sessions are ours to close.
    const present = object?.metadata.deletionTimestamp === undefined ? object : undefined;
    const known = this.#uids.get(key);
    if (known && known !== present?.metadata.uid) this.#forget(key, known);
    if (!present) return {};
    this.#uids.set(key, present.metadata.uid ?? "");
    try {
      const deployment = parseMoEDeployment(present);
      return await this.#converge({ ...deployment, status: this.#deps.status.latest(deployment) });
    } catch (error) {
      if (!hasCode(error, "InvalidSpec")) throw error;
      // A stored object that this version cannot read: say so, touch nothing.
      const { code: reason, message } = error as AppError;
      const { generation: observedGeneration } = present.metadata;
      await this.#deps.status.refuse(present, { type: "SpecAccepted", status: "False", reason, message, observedGeneration });
      return {};
    }
  }

  async #converge(deployment: MoEDeployment): Promise<Outcome> {
    const deps = this.#deps;
    const context: RenderContext = { deployment, settings: deps.settings };
    const template = workerTemplate(context);
    const unsupported = [...template.refusals, ...gatewayTemplate(context).refusals];
    const uncertified = await this.#certifyGateway(deployment);
    const objects = appliedObjects(context).filter(({ resource }) => unsupported.length === 0 || resource !== resources.deployments);
    const refused = [...unsupported, ...(await deps.applier.apply(objects, deployment.metadata))];
    const pods = this.#pods(deployment);
    const known = pods.some((pod) => pod.templateHash === template.hash);
    const unasked = known || refused.length > 0 || deployment.spec.suspend;
    const rejection = unasked ? undefined : await this.#dryRun(context, template, living(pods).length > 0);
    const refusals: Refusal[] = [
      ...uncertified,
      ...refused,
      ...(rejection ? [{ reason: "PodRefused", message: `the API server refuses the worker pod: ${rejection}` }] : []),
    ];
    const snapshot = await this.#snapshot(deployment, pods, template.hash, refusals);
    return this.#proceed(context, template, snapshot);
  }

  async #proceed(context: RenderContext, template: WorkerTemplate, snapshot: Snapshot): Promise<Outcome> {
    const deps = this.#deps;
    const { deployment } = context;
    const { limitBytes } = template;
    const model = snapshot.view?.model;
    const floor = model ? rankFloor(deployment.spec, model, limitBytes) : rememberedFloor(deployment.status);
    const target = targetRanks(deployment, snapshot.now, floor);
    const step = nextStep({ snapshot, ranks: target.ranks, frozen: snapshot.refusals.length > 0, limitBytes });
    const failures = [await execute(deps, context, template, step.actions), await this.#certify(deployment, snapshot.pods)];
    const failure = failures.find((one) => one !== undefined);
    deps.rebalance.update(this.#world(snapshot, target.ranks));
    const memory = memoryRefusals(deployment.spec, model, target.ranks, limitBytes);
    const status = nextStatus({
      snapshot,
      target,
      refusals: [...snapshot.refusals, ...memory],
      actions: step.actions,
      blocked: target.blocked ?? step.blocked,
      floor,
      failure: failure?.message ?? "",
    });
    const heldMs = await deps.status.write(deployment, status);
    if (failure) throw failure;
    const deadline = status.expertParallel?.operation?.deadline;
    const untilDeadline = deadline ? Date.parse(deadline) - snapshot.now.getTime() + 1 : undefined;
    const againMs = snapshot.refusals.length > 0 ? refusedMs : undefined;
    const waits = [target.settlesInMs, step.againInMs, heldMs, untilDeadline, this.#warmMs(), againMs].filter(
      (ms): ms is number => ms !== undefined && ms > 0,
    );
    return waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) };
  }

  /** Returns the first error, after every pod had its turn. */
  async #certify(deployment: MoEDeployment, pods: readonly PodFacts[]): Promise<AppError | undefined> {
    const running = living(pods).filter((pod) => !pod.terminating);
    const results = await Promise.allSettled(running.map((pod) => this.#deps.identities.ensureWorker(deployment, pod)));
    const failed = results.find((result) => result.status === "rejected");
    return failed ? AppError.from(failed.reason, "writing certificates") : undefined;
  }

  #warmMs(): number {
    return this.#startedMs + warmUpMs - this.#deps.now().getTime();
  }

  #pods(deployment: MoEDeployment): PodFacts[] {
    const { informers, overlay, rebalance, now } = this.#deps;
    const { uid } = deployment.metadata;
    const at = now().getTime();
    const owns = (pod: KubeObject) =>
      pod.metadata.labels?.[labels.component] === "worker" && (pod.metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false);
    const nodes = nodeHealth(informers.list("nodes"));
    const observed = overlay.merge(informers.list("pods", owns), owns).flatMap((pod) => podFacts(pod, nodes, at) ?? []);
    return withLosses(observed, rebalance.view(uid), this.#warmMs() > 0);
  }

  async #snapshot(deployment: MoEDeployment, pods: PodFacts[], templateHash: string, refusals: readonly Refusal[]): Promise<Snapshot> {
    const { informers, rebalance, now } = this.#deps;
    const { namespace, name, uid } = deployment.metadata;
    const gateway = gatewayFacts(
      informers.get("deployments", { namespace, name: names.gateway(name) }),
      this.#gatewayPods(deployment),
      now().getTime(),
    );
    const settled = pods.length > 0 && pods.every((pod) => pod.ready);
    const claim = settled ? "Present" : await this.#claim(deployment);
    return {
      now: now(),
      deployment,
      pods,
      gateway,
      templateHash,
      refusals,
      claim,
      view: rebalance.view(uid),
      warmingUp: this.#warmMs() > 0,
    };
  }

  #gatewayPods({ metadata }: MoEDeployment): KubeObject[] {
    return this.#deps.informers.list(
      "pods",
      (pod) =>
        pod.metadata.namespace === metadata.namespace &&
        pod.metadata.labels?.[labels.deployment] === metadata.name &&
        pod.metadata.labels[labels.component] === "gateway",
    );
  }

  async #claim(deployment: MoEDeployment): Promise<Snapshot["claim"]> {
    const { claim } = parseModelUri(deployment.spec.model.uri);
    const found = await this.#deps.kube.get(resources.persistentVolumeClaims, { namespace: deployment.metadata.namespace, name: claim });
    return found ? "Present" : "Missing";
  }

  #world(snapshot: Snapshot, desiredRanks: number): World {
    const { metadata, spec } = snapshot.deployment;
    const { namespace, name, uid, generation } = metadata;
    return {
      ref: { namespace, name },
      uid,
      generation,
      spec,
      desiredRanks,
      workers: snapshot.pods.filter((pod) => !pod.terminal),
      gateways: gatewayPods(this.#gatewayPods(snapshot.deployment)),
      leaving: snapshot.pods.flatMap((pod) =>
        pod.leaving && !pod.terminating ? [{ rank: pod.rank, podUid: pod.uid, reason: pod.leaving.reason }] : [],
      ),
    };
  }

  /** A Secret that waits for a person or the garbage collector is told of in a condition. */
  async #certifyGateway(deployment: MoEDeployment): Promise<Refusal[]> {
    try {
      await this.#deps.identities.ensureGateway(deployment);
      return [];
    } catch (error) {
      if (!(error instanceof AppError && secretProblems.includes(error.code))) throw error;
      return [{ reason: error.code, message: error.message }];
    }
  }

  async #dryRun(context: RenderContext, template: WorkerTemplate, oneMore: boolean): Promise<string | undefined> {
    const { uid } = context.deployment.metadata;
    const now = this.#deps.now().getTime();
    const last = this.#dryRuns.get(uid);
    if (last && last.hash === template.hash && now - last.at < dryRunMs) return last.problem;
    const problem = await dryRun(this.#deps.kube, context, template, oneMore);
    this.#dryRuns.set(uid, { hash: template.hash, at: now, problem });
    return problem;
  }

  #forget(key: string, uid: string): void {
    this.#uids.delete(key);
    this.#dryRuns.delete(uid);
    this.#deps.rebalance.forget(uid);
    this.#deps.identities.forget(uid);
    this.#deps.status.forget(uid);
    this.#deps.applier.forget(uid);
  }
}
