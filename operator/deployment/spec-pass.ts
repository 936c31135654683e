// The half of a reconcile that puts a spec in force, and says which one is. A bad field must cost nothing but itself: whatever is
// refused, lost ranks are replaced, a roll never deletes a pod without a successor, and the status is written (reconcile.ts).
//
// A spec is accepted as a whole: no field is the operator's, the API server takes every owned object, certificates can be written,
// and the API server takes the worker pod (a dry run, unless every pod that is there was made of it). What is accepted becomes a
// revision first (accepted-specs.ts), durable before the first pod is made of it; what is refused never does. Then:
//
// - Nothing is accepted yet (a first creation with a bad field): no pod is made, since the user has never seen this deployment run
//   with another spec. SpecAccepted says the field, Degraded says that ranks are missing and cannot be made.
// - A later spec is refused: pods are made from the template of the last accepted one, ranks still rolling to it go on rolling.
//   Objects take what they can one by one; a gateway Deployment that is refused is applied as the last accepted spec has it.
//   replicas, suspend, gateway.replicas and gateway.autoscale are obeyed, as no template depends on them.
// - The operator is another release, or set to something else: nothing of the spec has changed, so the templates stay as they were
//   rendered, and so does the runtime image, until the owner asks for another (core/runtime-image.ts). Settings reach pods otherwise:
//   by the ConfigMap that they read, and the log level by their Control streams.
// - The accepted template itself is refused later (a quota, a policy, a PriorityClass that is gone): the dry run is asked again all
//   the while a roll is under way, the roll stops, ranks marked for it stay, and missing ranks are still tried.
// - Others manage fields of an owned object: that object stays as it is and FieldConflict says so; the spec is accepted all the same.
// - The pass fails for another reason (a webhook that is away, a conflict): as refused, but SpecAccepted is Unknown and the pass is
//   repeated with back-off.
// - The user repairs the field: the dry run says yes. A spec that is back to what was in force changes no pod; another one rolls.
// - The model of a later spec is still being downloaded (core/delivery.ts): as refused, but nothing is wrong with it. Its gateways and
//   ranks come with the model, in one switch (reconcile.ts).
// - The gateways still serve with the ranks of a deleted deployment of this name (core/orphans.ts): the spec is accepted without them,
//   and their Deployment is applied in the pass in which they need not wait any more.
// - A roll has failed (core/rollout.ts): the status says of which template, and as long as the spec asks for that one it counts as
//   refused. The last revision with another template becomes the newest, and pods are made of it. Another template ends this, and so does
//   an annotation that names what was rolled back.
// - Canaries bake, or rolls are paused: gateways stay as the last template has them with which every rank has served.
// - The spec has another model or codec (reconcile.ts): while a stand-in tries it (stand-ins.ts) it counts as not delivered. Then all ranks
//   and gateways change at once, or it does not come into force while the strategy is paused, has a partition, or is OnDelete; a roll
//   back to another model changes all of them at once too.
// - Ranks mount no model (objects/seed.ts), since it is in no claim, or in one that a single node can mount: a template of its own. Ranks
//   that mount such a claim and have found a node go on so until the spec changes, those of another image until claim or image do.
// - Gateways of an image that has mounted the model's claim go on to mount it (objects/gateway.ts), until they get another image.
// - The operator restarts or another one leads: it finds the revision in its cache, as it finds the pods. A revision that somebody
//   deleted is written again from memory, and without one the spec as it stands has to be accepted anew.

import { AppError, annotations } from "../../crds/common.ts";
import { type MoEDeployment, type MoEDeploymentSpec, moeDeploymentSpecSchema, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { RolledBack } from "../../crds/rollout.ts";
import type { Gang } from "../gangs/gang.ts";
import type { Applier, Rendered } from "../kube/apply.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import { podRefusal, type Refusal } from "../kube/refusal-text.ts";
import { type Identities, secretProblems } from "../pki/identity.ts";
import { templateContainer, workerKind } from "../pods/pod-template.ts";
import type { AcceptedSpecs } from "./accepted-specs.ts";
import { chooseGang } from "./core/gang.ts";
import type { Successor } from "./core/pod-actions.ts";
import { holdsModel } from "./core/rollout.ts";
import { pinnedImage } from "./core/runtime-image.ts";
import { living, type PodFacts, type RolloutFacts, type RuntimeImage } from "./core/snapshot.ts";
import { dryRun } from "./execute.ts";
import type { RenderContext, SeedWish, Settings } from "./objects/context.ts";
import { gatewayTemplate } from "./objects/gateway.ts";
import { absentObjects, isGateways, objectsOf } from "./objects/index.ts";
import { rankModelText } from "./objects/model-place.ts";
import { type RenderedPod, type WorkerTemplate, workerTemplate } from "./objects/worker-pod.ts";
import type { Accepted } from "./revision.ts";
import { keptModel, type Seeding, seedingOf } from "./seeding.ts";

/** The refusal of a dry run stands for this long; a quota or a policy may change without us hearing of it. */
const refusalMs = 30_000;

export interface SpecPassDeps {
  readonly kube: Kube;
  readonly applier: Applier;
  readonly identities: Identities;
  readonly accepted: AcceptedSpecs;
  readonly informers: Pick<Informers, "served">;
  readonly settings: Settings;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

/** A deployment as it can be read, with the last accepted spec where its own cannot be. */
export interface ReadDeployment {
  readonly deployment: MoEDeployment;
  readonly unreadable: readonly Refusal[];
}

export interface InForce {
  /** The template that pods are made of; of no use with a successor of `None`. */
  readonly template: WorkerTemplate;
  readonly successor: Successor;
  /** The template that lost ranks are made of which keep theirs; undefined where it is not known. */
  readonly stable: WorkerTemplate | undefined;
  /** Who starts the ranks that are made now together. */
  readonly gang: Gang | undefined;
  /** Undefined where no spec is in force. */
  readonly rollout: RolloutFacts | undefined;
  /** Undefined where no spec is in force: the first pod may be another operator's. */
  readonly runtimeImage: RuntimeImage | undefined;
  readonly refusals: readonly Refusal[];
  /** Owned objects that stay as they are since others manage fields of theirs. */
  readonly conflicts: readonly string[];
  /** The first error for which the spec could be neither put in force nor refused. */
  readonly failure: AppError | undefined;
}

/** Throws `InvalidSpec` where the object cannot be read and no spec was accepted before. */
export function readDeployment(object: KubeObject, accepted: Accepted | undefined): ReadDeployment {
  try {
    return { deployment: parseMoEDeployment(object), unreadable: [] };
  } catch (error) {
    if (!accepted || !hasCode(error, "InvalidSpec")) throw error;
    const { code: reason, message } = error as AppError;
    const own = object.spec as { replicas?: unknown; suspend?: unknown; rolloutStrategy?: unknown } | undefined;
    const { replicas, suspend, rolloutStrategy } = moeDeploymentSpecSchema.shape;
    const spec = {
      ...accepted.spec,
      replicas: replicas.safeParse(own?.replicas).data ?? accepted.spec.replicas,
      suspend: suspend.safeParse(own?.suspend).data ?? accepted.spec.suspend,
      rolloutStrategy: rolloutStrategy.safeParse(own?.rolloutStrategy).data ?? accepted.spec.rolloutStrategy,
    };
    return { deployment: parseMoEDeployment({ ...object, spec }), unreadable: [{ reason, message }] };
  }
}

/** Each undefined where there is none. */
export interface Aim {
  readonly aim: MoEDeploymentSpec | undefined;
  readonly accepted: MoEDeploymentSpec | undefined;
  /** The spec as it stands: hashes of the templates of workers and gateways, and the image of ranks. */
  readonly wanted: { readonly templates: readonly [string, string]; readonly image: string };
}

interface Tries {
  /** A stand-in tries the spec with these templates, or may. */
  tries(deployment: MoEDeployment, templates: Aim["wanted"]["templates"], pods: readonly PodFacts[]): boolean;
}

export interface PassOptions {
  readonly gatewaysWait?: boolean;
  readonly undelivered?: boolean;
  readonly front?: RenderContext["front"];
  readonly seed?: SeedWish | undefined;
}

export class SpecPass {
  readonly #deps: SpecPassDeps;
  /** Refusals of dry runs by uid, then by hash. Consent is asked for anew: something that serves may be deleted for it. */
  readonly #refused = new Map<string, Map<string, { readonly at: number; readonly problem: string }>>();

  constructor(deps: SpecPassDeps) {
    this.#deps = deps;
  }

  /**
   * `pods` is asked for the pods as they are at that moment; `gatewaysWait` leaves the gateways as they are; `undelivered`: the model is
   * not there yet, or not tried, so that the spec is asked about and not accepted; `seed`: the one that ranks have the model from; `front`:
   * whose gateways the Service leads to. Throws nothing that belongs into the status.
   */
  async run(
    { deployment, unreadable }: ReadDeployment,
    pods: () => readonly PodFacts[],
    { gatewaysWait = false, undelivered = false, seed, front: leads }: PassOptions = {},
  ): Promise<InForce> {
    const { applier, accepted: store } = this.#deps;
    const { metadata, spec } = deployment;
    const failures: AppError[] = [];
    const rendered = this.#render(deployment, pods(), seed);
    const { accepted, stable, workers, gateways, wanted, gateway, back } = rendered;
    const chosen = chooseGang(deployment, pods(), (resource) => this.#deps.informers.served(resource, metadata.namespace));
    const routable = this.#deps.informers.served(resources.httpRoutes, metadata.namespace) === "served";
    const context: RenderContext = { ...rendered.context, gang: chosen.gang, routable, front: leads };
    const { runtimeImage, offered } = rendered;
    const stableTemplateHash = deployment.status.rollout?.stableTemplateHash;
    const uncertified = gatewaysWait ? [] : await attempt(failures, () => this.#certifyGateway(deployment), []);
    const unsupported = [...unreadable, ...workers.refusals, ...gateways.refusals, ...chosen.refusals, ...rollRefusals(deployment, back)];
    const front = frontOf(deployment, rendered, { pods: pods(), to: undelivered ? accepted?.spec : spec });
    const objects = objectsOf(context, { ...front, unsupported: undelivered || unsupported.length > 0 });
    const wait = (one: Rendered) => gatewaysWait && isGateways(one, metadata.name);
    // Removed first: what an autoscaler has set is nobody's once it is gone.
    await attempt(failures, () => applier.remove(absentObjects(context), metadata), undefined);
    const applied = await applier.apply(
      objects.filter((one) => !wait(one)),
      metadata,
    );
    if (applied.failure) failures.push(applied.failure);
    const refusals = [...uncertified, ...unsupported, ...applied.refusals];
    const good = () => refusals.length === 0 && failures.length === 0;
    // Asked whatever else is refused, so that one look at the status shows all faults.
    const askable = failures.length === 0 && unreadable.length === 0 && workers.refusals.length === 0 && !back && !spec.suspend;
    if (askable) refusals.push(...(await attempt(failures, () => this.#judge(context, wanted, pods(), gatewaysWait), [])));
    // A change of model that the strategy holds is tried by a stand-in once it is let go.
    const held = !back && stable !== undefined && holds(deployment, { pods: pods(), stable, to: spec });
    const kept =
      good() &&
      !undelivered &&
      !held &&
      !spec.suspend &&
      (await attempt(failures, () => this.#keep(deployment, { template: wanted, gateway, runtimeImage }, stableTemplateHash), false));
    if (!kept && accepted) await attempt(failures, () => store.keep(deployment, accepted, stableTemplateHash), undefined);
    const template = kept ? wanted : accepted?.template;
    const inForce = kept ? { spec, runtimeImage } : accepted;
    if (refusals.length > 0) refusals.push(note(refusals[0]?.reason ?? "", accepted));
    return {
      template: template ?? wanted,
      successor: await this.#successor(context, { template, kept, gatewaysWait }, pods()),
      stable: stable?.template,
      gang: chosen.gang,
      rollout: inForce && {
        revisions: store.revisions(metadata.uid).map(({ number, accepted: one }) => ({ number, templateHash: one.template.hash })),
        models: { wanted: rankModelText(held ? spec : inForce.spec), stable: stable && rankModelText(stable.spec) },
        rolledBack: back,
      },
      runtimeImage: inForce && { pinned: inForce.runtimeImage, offered, own: ownImage(inForce.spec) },
      refusals,
      conflicts: applied.conflicts,
      failure: failures[0],
    };
  }

  /**
   * The spec whose model all pods are to have, and the one that was accepted last: of a roll that was taken back the one before it, and
   * the stable one while the strategy holds a change of model.
   */
  aim(deployment: MoEDeployment, pods: readonly PodFacts[], { undelivered, seed }: Pick<PassOptions, "undelivered" | "seed">): Aim {
    const { accepted, stable, back, wanted: rendered, gateway, runtimeImage: image } = this.#render(deployment, pods, seed);
    const wanted = { templates: [rendered.hash, gateway.hash] as const, image };
    if (back) return { aim: accepted?.spec, accepted: accepted?.spec, wanted };
    const latest = this.#deps.accepted.latest(deployment.metadata.uid)?.spec;
    const to = undelivered ? latest : deployment.spec;
    if (stable && holds(deployment, { pods, stable, to })) return { aim: stable.spec, accepted: stable.spec, wanted };
    return { aim: to, accepted: latest, wanted };
  }

  /** Whether ranks of this spec have the model from a seed, as far as that is known without a look at the claim. */
  seeds(deployment: MoEDeployment, pods: readonly PodFacts[]): Seeding {
    const { accepted, context, workers, offered } = this.#render(deployment, pods, undefined);
    return seedingOf({ deployment, pods, accepted, image: context.settings.runtimeImage, workers, offered });
  }

  /** The model that the seed of the ranks keeps though the spec has another (seeding.ts). */
  seedKeeps(deployment: MoEDeployment, pods: readonly PodFacts[], standIns: Tries) {
    const { accepted, stable, back, wanted, gateway } = this.#render(deployment, pods, undefined);
    const held = !back && stable && holds(deployment, { pods, stable, to: deployment.spec }) ? stable : undefined;
    const stays = back !== undefined || held !== undefined || standIns.tries(deployment, [wanted.hash, gateway.hash], pods);
    return keptModel(deployment, held ?? accepted, stays);
  }

  #render(deployment: MoEDeployment, pods: readonly PodFacts[], seed: SeedWish | undefined) {
    const { settings, accepted: store } = this.#deps;
    const { metadata, spec, status } = deployment;
    const { rolledBack, stableTemplateHash } = status.rollout ?? {};
    const accepted = store.latest(metadata.uid, rolledBack?.templateHash);
    const stable = store.revisions(metadata.uid).find((one) => one.accepted.template.hash === stableTemplateHash)?.accepted;
    const { runtimeImage: offered } = settings;
    const runtimeImage = pinnedImage({ spec, status, accepted: accepted?.runtimeImage, pods, offered, own: ownImage(spec) });
    const context: RenderContext = { deployment, settings: { ...settings, runtimeImage }, seed };
    const workers = workerTemplate(context);
    const gateways = gatewayTemplate(
      context,
      store.revisions(metadata.uid).map((one) => one.accepted.gateway),
    );
    const wanted = asAccepted(workers, accepted?.template);
    const gateway = asAccepted(gateways, accepted?.gateway);
    const back = accepted ? takenBack(deployment, wanted.hash) : undefined;
    return { accepted, stable, offered, runtimeImage, context, workers, gateways, wanted, gateway, back };
  }

  forget(uid: string): void {
    this.#refused.delete(uid);
    this.#deps.accepted.forget(uid);
  }

  async #keep(
    deployment: MoEDeployment,
    rendered: Pick<Accepted, "template" | "gateway" | "runtimeImage">,
    stable: string | undefined,
  ): Promise<true> {
    const { spec, metadata } = deployment;
    await this.#deps.accepted.keep(deployment, { generation: metadata.generation, spec, ...rendered }, stable);
    return true;
  }

  /** Whether a pod of the template in force can take the place of one that serves. */
  async #successor(
    context: RenderContext,
    { template, kept, gatewaysWait }: { template: WorkerTemplate | undefined; kept: boolean; gatewaysWait: boolean },
    pods: readonly PodFacts[],
  ): Promise<Successor> {
    if (!template) return "None";
    if (kept || context.deployment.spec.suspend) return "Accepted";
    const failures: AppError[] = [];
    const refusals = await attempt(failures, () => this.#judge(context, template, pods, gatewaysWait), []);
    return refusals.length === 0 && failures.length === 0 ? "Accepted" : "Refused";
  }

  /** A Secret that waits for a person or the garbage collector is told of in a condition. */
  async #certifyGateway(deployment: MoEDeployment): Promise<Refusal[]> {
    try {
      await this.#deps.identities.ensureRole(deployment, "gateway");
      return [];
    } catch (error) {
      if (!(error instanceof AppError && secretProblems.includes(error.code))) throw error;
      return [{ reason: error.code, message: error.message }];
    }
  }

  /** The API server's word on a template, unless every pod that is there was made of it. `crowded`: others are there, and will go. */
  async #judge(context: RenderContext, template: WorkerTemplate, pods: readonly PodFacts[], crowded: boolean): Promise<Refusal[]> {
    const present = living(pods);
    if (present.length > 0 && present.every((pod) => pod.templateHash === template.hash)) return [];
    const problem = await this.#dryRun(context, template, crowded || present.length > 0);
    return problem === undefined ? [] : [podRefusal(problem)];
  }

  async #dryRun(context: RenderContext, template: WorkerTemplate, oneMore: boolean): Promise<string | undefined> {
    const { uid } = context.deployment.metadata;
    const now = this.#deps.ticks();
    const refused = new Map([...(this.#refused.get(uid) ?? [])].filter(([, { at }]) => now - at < refusalMs));
    this.#refused.set(uid, refused);
    const last = refused.get(template.hash);
    if (last) return last.problem;
    const problem = await dryRun(this.#deps.kube, context, template, oneMore);
    if (problem !== undefined) refused.set(template.hash, { at: now, problem });
    return problem;
  }
}

/** The result, or `otherwise` with the error among the failures. */
async function attempt<T>(failures: AppError[], work: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work();
  } catch (caught) {
    failures.push(AppError.from(caught));
    return otherwise;
  }
}

function ownImage({ podTemplate }: MoEDeploymentSpec): string | undefined {
  const image = templateContainer(podTemplate, workerKind)?.image;
  return image === undefined ? undefined : String(image);
}

/** The roll back that holds while the spec asks for the template that failed, and nobody wants it tried again. */
function takenBack({ metadata, status }: MoEDeployment, wantedHash: string): RolledBack | undefined {
  const { rolledBack } = status.rollout ?? {};
  const again = metadata.annotations?.[annotations.retryRollout] === rolledBack?.id;
  return rolledBack?.templateHash === wantedHash && !again ? rolledBack : undefined;
}

function rollRefusals({ metadata: { name, namespace } }: MoEDeployment, back: RolledBack | undefined): Refusal[] {
  if (!back) return [];
  const { fromRevision, toRevision, reason, message } = back;
  const tried = fromRevision === 0 ? "the spec, which a stand-in tried," : `revision ${fromRevision}`;
  const what = `${tried} was rolled back to revision ${toRevision}: ${reason}: ${message}`;
  return [{ reason: "RolledBack", message: `${what}; correct the spec, or try again with: enodia rollout resume ${name} -n ${namespace}` }];
}

interface Change {
  readonly pods: readonly PodFacts[];
  readonly stable: Accepted;
  readonly to: MoEDeploymentSpec | undefined;
}

const holds = ({ spec }: MoEDeployment, { pods, stable, to }: Change): boolean =>
  to !== undefined && holdsModel({ strategy: spec.rolloutStrategy, pods, stable: rankModelText(stable.spec), wanted: rankModelText(to) });

/** Gateways get a new template at once, but where somebody wants to see how the first ranks do with it. */
function waitsForRanks({ spec, status }: MoEDeployment, wantedHash: string): boolean {
  const { paused, canary } = spec.rolloutStrategy;
  const { stableTemplateHash, bakedTemplateHash } = status.rollout ?? {};
  return wantedHash !== stableTemplateHash && (paused || (canary !== undefined && wantedHash !== bakedTemplateHash));
}

interface Fronts {
  readonly accepted: Accepted | undefined;
  readonly stable: Accepted | undefined;
  readonly back: RolledBack | undefined;
  readonly wanted: WorkerTemplate;
  readonly gateway: RenderedPod;
}

/** Gateways have the tokenizer of the ranks' model, whatever waits for what. */
function frontOf(deployment: MoEDeployment, { accepted, stable, back, wanted, gateway }: Fronts, change: Omit<Change, "stable">) {
  const before = accepted?.gateway;
  if (!stable) return { gateway, before };
  if (!back && holds(deployment, { ...change, stable })) return { gateway: stable.gateway, before: stable.gateway };
  const waits = rankModelText(stable.spec) === rankModelText(deployment.spec) && waitsForRanks(deployment, wanted.hash);
  return { gateway: waits ? stable.gateway : gateway, before };
}

/** A template as it was rendered when the same was accepted: what this release renders otherwise changes no pod. */
function asAccepted<T extends RenderedPod>(rendered: T, accepted: T | undefined): T {
  return accepted?.hash === rendered.hash ? accepted : rendered;
}

/** The last sentence of a refusal: what holds meanwhile. */
function note(reason: string, accepted: Accepted | undefined): Refusal {
  const message = accepted
    ? `meanwhile the spec of generation ${accepted.generation} stays in force`
    : "no spec was accepted before, so no pod is made";
  return { reason, message };
}
