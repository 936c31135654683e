// Executes pod actions. Each may be repeated, and a failure stops no other.

import { randomInt } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import { rfc3339 } from "../../../crds/conditions.ts";
import { gatesSchema } from "../../../crds/pod-gates.ts";
import { manager } from "../../kube/adoption.ts";
import { hasCode } from "../../kube/errors.ts";
import type { PodOverlay } from "../../kube/informers.ts";
import { type Kube, type KubeObject, resources } from "../../kube/kube.ts";
import type { Identities, PodIdentity } from "../../pki/identity.ts";
import type { Action } from "../features/pod-actions.ts";
import type { RenderContext } from "../objects/context.ts";
import { type WorkerTemplate, workerPod } from "../objects/worker-pod.ts";
import { leavingAnnotation, leavingSinceAnnotation } from "../observe/pod-facts.ts";
import type { Deployments } from "../ports.ts";

/** No vowels and no characters that look alike. */
const alphabet = "bcdfghjklmnpqrstvwxz2456789";
const suffixLength = 5;

function podSuffix(random: (below: number) => number = randomInt): string {
  return Array.from({ length: suffixLength }, () => alphabet[random(alphabet.length)]).join("");
}

export interface ExecuteDeps {
  readonly kube: Kube;
  readonly identities: Identities;
  readonly overlay: PodOverlay;
  readonly event: Deployments["event"];
  readonly now: () => Date;
}

export interface Executed {
  readonly failure: AppError | undefined;
  readonly createError: string;
}

const creating = "creating a worker pod";

export interface Templates {
  readonly template: WorkerTemplate;
  readonly stable?: WorkerTemplate | undefined;
}

/** Tries every action, but creates no more pods after a refusal, and none beside a pod that could not be deleted. */
export async function changePods(
  deps: ExecuteDeps,
  context: RenderContext,
  templates: Templates,
  actions: readonly Action[],
): Promise<Executed> {
  const of = <T extends Action["type"]>(type: T) =>
    actions.filter((action): action is Extract<Action, { type: T }> => action.type === type);
  const all = (list: readonly Exclude<Action, { type: "create" }>[]) =>
    Promise.allSettled(list.map((action) => act(deps, context, action)));
  const certificates: Promise<PromiseSettledResult<void>[]>[] = [];
  const marked = all([...of("mark"), ...of("unmark")]);
  // The scheduler counts a lost pod until it is deleted: a successor made before would not fit its own topology rules.
  const deleted = await all(of("delete"));
  const remaining = new Set(of("delete").flatMap(({ pod }, i) => (deleted[i]?.status === "rejected" ? [pod.rank] : [])));
  const made = of("create").filter(({ rank }) => !remaining.has(rank));
  const results = await slowStart(made, async ({ rank, stable }) => {
    const pod = await createPod(deps, context, (stable ? templates.stable : undefined) ?? templates.template, rank);
    // The pod's gate waits for the Secret; after a crash here the next pass creates it and opens the gate.
    certificates.push(Promise.allSettled([deps.identities.ensurePod(context.deployment, pod)]));
  });
  const errors = [await marked, deleted, results, ...(await Promise.all(certificates))]
    .flat()
    .flatMap((result) => (result.status === "rejected" ? [AppError.from(result.reason, "changing worker pods")] : []));
  return { failure: errors[0], createError: errors.find((error) => error.operation === creating)?.message ?? "" };
}

/** Creates batches of 1, 2, 4 and so on until one fails: a quota would refuse the rest. */
async function slowStart<T>(pods: readonly T[], make: (pod: T) => Promise<void>): Promise<PromiseSettledResult<void>[]> {
  const results: PromiseSettledResult<void>[] = [];
  for (let size = 1; results.length < pods.length && results.every(({ status }) => status === "fulfilled"); size *= 2) {
    const batch = pods.slice(results.length, results.length + size);
    results.push(...(await Promise.allSettled(batch.map(make))));
  }
  return results;
}

async function act(deps: ExecuteDeps, { deployment }: RenderContext, action: Exclude<Action, { type: "create" }>): Promise<void> {
  const { pod } = action;
  const ref = { namespace: deployment.metadata.namespace, name: pod.name };
  if (action.type === "delete") {
    const deleted = await deps.kube.delete(resources.pods, ref, { uid: pod.uid, ...(action.force ? { graceSeconds: 0 } : {}) });
    if (action.force) deps.overlay.removed(pod.uid);
    const type = ["NodeLost", "PodFailed", "StuckTerminating", "DuplicateRank"].includes(action.reason) ? "Warning" : "Normal";
    if (deleted) deps.event(deployment, type, action.reason, `rank ${pod.rank}: pod ${pod.name} deleted: ${action.why}`);
    return;
  }
  const leave = action.type === "mark";
  const marks = { [leavingAnnotation]: leave ? action.reason : null, [leavingSinceAnnotation]: leave ? rfc3339(deps.now()) : null };
  await patchPod(deps, ref, pod.uid, marks);
  if (leave) deps.event(deployment, "Normal", "RankLeaving", `rank ${pod.rank} is being emptied: ${action.why}`);
  else deps.event(deployment, "Normal", "RankKept", `rank ${pod.rank} stays: ${action.why}`);
}

async function patchPod(
  deps: ExecuteDeps,
  ref: { namespace: string; name: string },
  uid: string,
  annotations: Record<string, string | null>,
): Promise<void> {
  try {
    const patched = await deps.kube.patch(resources.pods, ref, { metadata: { uid, annotations } }, { manager });
    deps.overlay.wrote(patched);
  } catch (error) {
    // The pod is gone or its name was reused: the next pass decides anew.
    if (!hasCode(error, "NotFound", "Conflict", "Invalid")) throw error;
  }
}

async function createPod(deps: ExecuteDeps, context: RenderContext, template: WorkerTemplate, rank: number): Promise<PodIdentity> {
  const created = await tryCreate(deps, context, workerPod(context, template, rank, podSuffix()), rank);
  deps.overlay.wrote(created);
  const { name, uid = "" } = created.metadata;
  deps.event(context.deployment, "Normal", "RankCreated", `rank ${rank}: pod ${name}`);
  return { name, uid, rank, gates: gatesSchema.parse((created.spec as { schedulingGates?: unknown } | undefined)?.schedulingGates) };
}

async function tryCreate(deps: ExecuteDeps, { deployment }: RenderContext, pod: KubeObject, rank: number): Promise<KubeObject> {
  try {
    return await deps.kube.create(resources.pods, pod, { manager });
  } catch (caught) {
    const error = AppError.from(caught);
    const message = `rank ${rank}: ${withoutSuffix(error.message, pod)}`;
    deps.event(deployment, "Warning", "FailedCreate", message);
    throw new AppError(message, { code: error.code, operation: creating, cause: error, retry: error.retry });
  }
}

/** Strips the random suffix, so that retries have the same message. */
function withoutSuffix(message: string, { metadata: { name } }: KubeObject): string {
  return message.replaceAll(name, name.slice(0, -suffixLength - 1));
}

/**
 * Dry run against schema, Pod Security and quota; undefined = accepted. `oneMore`: the pod replaces a living one, so that a full quota says
 * nothing.
 */
export async function dryRun(kube: Kube, context: RenderContext, template: WorkerTemplate, oneMore: boolean): Promise<string | undefined> {
  const pod = workerPod(context, template, 0, podSuffix());
  const message = await refusalOf(kube, pod);
  return message === undefined || (oneMore && message.includes("exceeded quota")) ? undefined : withoutSuffix(message, pod);
}

export async function refusalOf(kube: Kube, pod: KubeObject): Promise<string | undefined> {
  try {
    await kube.create(resources.pods, pod, { manager, dryRun: true });
    return undefined;
  } catch (error) {
    if (!hasCode(error, "Invalid", "Forbidden")) throw error;
    return (error as Error).message;
  }
}
