// Asks the API server what a plan needs, and stores an accepted spec.
import { AppError } from "../../../crds/common.ts";
import { createOwned } from "../../kube/adoption.ts";
import type { Applier } from "../../kube/apply.ts";
import { hasCode } from "../../kube/errors.ts";
import { type Kube, type KubeObject, resources } from "../../kube/kube.ts";
import { podRefusal, type Refusal } from "../../kube/refusal-text.ts";
import type { Identities } from "../../pki/identity.ts";
import { secretProblems } from "../../pki/names.ts";
import type { Memory } from "../core/memory.ts";
import { living } from "../core/snapshot.ts";
import type { Plan } from "../features/decide.ts";
import type { DeliveryAction, Question } from "../features/delivery.ts";
import type { Answers } from "../features/spec.ts";
import type { WorkerTemplate } from "../objects/worker-pod.ts";
import type { Observed } from "../observed.ts";
import type { AcceptedSpecs } from "../state/accepted-specs.ts";
import type { DownloadPolls } from "../state/download-progress.ts";
import { dryRun, refusalOf } from "./change-pods.ts";

/** Nobody reports changes of quotas or policies. */
const refusalMs = 30_000;
const jobRetryMs = 10_000;

export interface AskDeps {
  readonly kube: Kube;
  readonly applier: Applier;
  readonly identities: Pick<Identities, "ensureRole" | "operator">;
  readonly accepted: AcceptedSpecs;
  readonly polls: DownloadPolls;
  readonly ticks: () => number;
}

type Owner = Observed["deployment"]["metadata"];

export async function ask(deps: AskDeps, observed: Observed, plan: Plan): Promise<Answers> {
  const { metadata } = observed.deployment;
  const delivered = await deliver(deps, metadata, plan.delivery.actions);
  const judge = new Judge(deps, observed, plan);
  const spec = await acceptSpec(deps, observed, { plan, judge });
  const { deliveryFailure, againInMs } = delivered;
  const jobRefused = delivered.jobRefused === "none" ? undefined : (delivered.jobRefused ?? observed.memory.jobRefused);
  return { ...spec, deliveryFailure, againInMs, remember: { jobRefused, dryRuns: judge.refused } };
}

interface Accepting {
  readonly plan: Plan;
  readonly judge: Judge;
}

type SpecAnswers = Pick<Answers, "refusals" | "conflicts" | "accepted" | "successor" | "revisions" | "failure">;

async function acceptSpec(deps: AskDeps, observed: Observed, { plan, judge }: Accepting): Promise<SpecAnswers> {
  const { applier, accepted: store } = deps;
  const { modelChange, objects } = plan;
  const { deployment } = modelChange;
  const { metadata, spec } = deployment;
  const { accepted: before, wanted, gateway, runtimeImage } = observed.rendered;
  const stableHash = deployment.status.rollout?.stableTemplateHash;
  const failures: AppError[] = [];
  const uncertified = modelChange.gatewaysWait ? [] : await attempt(failures, () => certifyGateway(deps, metadata), []);
  // An autoscaler's number is nobody's once that is gone.
  await attempt(failures, () => applier.remove(objects.absent, metadata), undefined);
  const applied = await applier.apply(objects.apply, metadata);
  if (applied.failure) failures.push(applied.failure);
  const refusals = [...uncertified, ...objects.unsupported, ...applied.refusals];
  if (objects.judges && failures.length === 0) refusals.push(...(await attempt(failures, () => judge.of(wanted), [])));
  const keep = async () => {
    await store.keep(deployment, { generation: metadata.generation, spec, template: wanted, gateway, runtimeImage }, stableHash);
    return true;
  };
  const good = refusals.length === 0 && failures.length === 0;
  const accepted = good && objects.acceptable && (await attempt(failures, keep, false));
  if (!accepted && before) await attempt(failures, () => store.keep(deployment, before, stableHash), undefined);
  const template = accepted ? wanted : before?.template;
  const tried = !template || accepted || spec.suspend ? [] : await judge.taken(template);
  const successor = !template ? "None" : tried.length === 0 ? "Accepted" : "Refused";
  return { refusals, conflicts: applied.conflicts, accepted, successor, revisions: store.revisions(metadata), failure: failures[0] };
}

/** Judges templates by dry run, unless every pod was made from them. */
class Judge {
  readonly #deps: AskDeps;
  readonly #observed: Observed;
  readonly #plan: Plan;
  readonly refused: Map<string, { readonly atMs: number; readonly problem: string }>;

  constructor(deps: AskDeps, observed: Observed, plan: Plan) {
    this.#deps = deps;
    this.#observed = observed;
    this.#plan = plan;
    const known: Memory["dryRuns"] = observed.memory.dryRuns;
    this.refused = new Map([...known].filter(([, { atMs }]) => observed.ticksMs - atMs < refusalMs));
  }

  async of(template: WorkerTemplate): Promise<Refusal[]> {
    const present = living(this.#observed.pods);
    if (present.length > 0 && present.every((pod) => pod.templateHash === template.hash)) return [];
    // Pods that exist will make way (`oneMore`).
    const problem = await this.#dryRun(template, this.#plan.modelChange.gatewaysWait || present.length > 0);
    return problem === undefined ? [] : [podRefusal(problem)];
  }

  /** The refusals of a pod that would replace another. */
  async taken(template: WorkerTemplate): Promise<readonly { readonly message: string }[]> {
    const failures: AppError[] = [];
    const refusals = await attempt(failures, () => this.of(template), []);
    return [...refusals, ...failures];
  }

  async #dryRun(template: WorkerTemplate, oneMore: boolean): Promise<string | undefined> {
    const last = this.refused.get(template.hash);
    if (last) return last.problem;
    const problem = await dryRun(this.#deps.kube, this.#plan.objects.context, template, oneMore);
    if (problem !== undefined) this.refused.set(template.hash, { atMs: this.#deps.ticks(), problem });
    return problem;
  }
}

/** A condition reports a Secret that waits for a person or the garbage collector. */
async function certifyGateway({ identities }: AskDeps, metadata: Owner): Promise<Refusal[]> {
  try {
    await identities.ensureRole({ metadata }, "gateway");
    return [];
  } catch (error) {
    if (!(error instanceof AppError && secretProblems.includes(error.code))) throw error;
    return [{ reason: error.code, message: error.message }];
  }
}

interface Delivered {
  readonly deliveryFailure: AppError | undefined;
  readonly againInMs: number | undefined;
  /** `none`: the Job was created. Undefined: none was tried. */
  readonly jobRefused: Memory["jobRefused"] | "none";
}

async function deliver(deps: AskDeps, owner: Owner, actions: readonly DeliveryAction[]): Promise<Delivered> {
  let againInMs: number | undefined;
  let jobRefused: Delivered["jobRefused"];
  try {
    for (const action of actions) {
      if (action.type === "createJob" || action.type === "judgeJob") {
        const message = await (action.type === "createJob" ? createJob(deps.kube, owner, action.job) : podProblem(deps.kube, action.job));
        jobRefused = message === undefined ? "none" : { name: action.name, message, untilMs: deps.ticks() + jobRetryMs };
        if (message !== undefined) againInMs = 1;
      } else if (action.type === "ask") againInMs = soonest(againInMs, await question(deps, owner, action));
      else await act(deps, owner, action);
    }
    return { deliveryFailure: undefined, againInMs, jobRefused };
  } catch (caught) {
    return { deliveryFailure: AppError.from(caught, "bringing the model"), againInMs, jobRefused };
  }
}

const soonest = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);

async function act(
  { kube, identities, polls }: AskDeps,
  { namespace, name, ...owner }: Owner,
  action: Exclude<DeliveryAction, { type: "createJob" | "judgeJob" | "ask" }>,
): Promise<void> {
  if (action.type === "certify") await identities.ensureRole({ metadata: { ...owner, namespace, name } }, action.role);
  else if (action.type === "deleteJob") await kube.delete(resources.jobs, { namespace, name: action.name }, { uid: action.uid });
  else polls.stop({ namespace, name });
}

async function question({ polls, identities }: AskDeps, owner: Owner, { uid, ip, ready = false, members }: Question) {
  const { namespace, name, uid: of } = owner;
  const identity = await identities.operator({ namespace, name }, of);
  const body = members && JSON.stringify({ members: members.toSorted() });
  return polls.ask({ owner: { namespace, name, uid: of }, uid, ip, identity, ready, body });
}

async function createJob(kube: Kube, { uid }: Owner, job: KubeObject): Promise<string | undefined> {
  const { name } = job.metadata;
  try {
    const made = await createOwned(kube, resources.jobs, job, uid);
    return made === "foreign" ? `Job ${name} exists and does not belong to this MoEDeployment; delete or rename it` : undefined;
  } catch (caught) {
    const error = AppError.from(caught);
    if (!hasCode(error, "Invalid", "Forbidden")) throw error;
    return error.message;
  }
}

/** Why the API server refuses the pod of a Job, which the Job itself says in events alone. */
async function podProblem(kube: Kube, { metadata: { namespace = "", name }, spec }: KubeObject): Promise<string | undefined> {
  const { template } = spec as { readonly template: Pick<KubeObject, "metadata" | "spec"> };
  const pod = { ...template, apiVersion: "v1", kind: "Pod", metadata: { ...template.metadata, namespace, name } };
  return refusalOf(kube, pod);
}

async function attempt<T>(failures: AppError[], work: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work();
  } catch (caught) {
    failures.push(AppError.from(caught));
    return otherwise;
  }
}
