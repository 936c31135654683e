// The next step of a training job, from what is observed: a status with the world of its pods, and the pods to delete or make. Whatever the
// status says of a pod's end is written before that pod is deleted, and an action repeated changes nothing, so that a crash anywhere loses
// and doubles nothing. Pure.
import { trainingProblems } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import { ended, foremostEnd, pauseLeft } from "./ends.ts";
import type { Observed, Problem } from "./observed.ts";
import type { PodView } from "./pod-view.ts";
import { wantedReplicas } from "./spawn.ts";
import { type Judged, type State, statusOf } from "./status.ts";
import { type WorldView, worldOf } from "./world.ts";

export type Action =
  | { readonly kind: "delete"; readonly name: string; readonly uid: string }
  /** The pod's name is made of rank and attempt: the same pod asked for twice is one. */
  | { readonly kind: "create"; readonly rank: number; readonly attempt: number };

export interface Decision {
  readonly status: MoETrainingJobStatus;
  readonly actions: readonly Action[];
  /** Look again after this many milliseconds. */
  readonly requeueAfterMs: number | undefined;
}

/** Running pods are asked how far they are this often. */
const progressMs = 2_000;
/** A pod that the API server refuses is asked for again after this, and a folder that is another job's. */
const refusedMs = 30_000;

export const isTrue = (status: MoETrainingJobStatus, type: string): boolean =>
  status.conditions?.some((one) => one.type === type && one.status === "True") ?? false;

/** Complete or Failed: such a job never starts again, whatever is deleted or changed. */
export const isOver = (status: MoETrainingJobStatus): boolean => isTrue(status, "Complete") || isTrue(status, "Failed");

const attemptOf = ({ attempts = [] }: MoETrainingJobStatus, rank: number): number => attempts[rank] ?? 0;

const deleted = (pods: readonly PodView[]): Action[] =>
  pods.filter(({ deleting }) => !deleting).map(({ name, uid }) => ({ kind: "delete", name, uid }));

export function decide(observed: Observed): Decision {
  const { status, pods } = observed;
  if (isOver(status)) return decision(observed, { state: { kind: "over" }, actions: deleted(pods) });
  const current = pods.filter(({ rank, attempt }) => rank >= 0 && attempt === attemptOf(status, rank));
  const stale = pods.filter((pod) => !current.includes(pod));
  const end = foremostEnd(current);
  if (end === undefined) return next(observed, current, stale);
  const state = ended(observed, end);
  // The other ranks of a job that ends, or is refused, are of no use; those of one whose pod is replaced wait for it.
  const alone = state.kind === "restarting" || state.kind === "waiting";
  return decision(observed, { state, ended: end, actions: deleted(alone ? [...stale, end] : pods) });
}

/** The problems for which the spec, as it is now, is not trained: those that are seen from here, and those that a pod found. */
function problemsOf(observed: Observed): readonly Problem[] {
  const { job, status, templateProblems } = observed;
  const { refusal } = status;
  const found = refusal?.generation === job.metadata.generation ? [refusal] : [];
  return [...trainingProblems(job.spec), ...templateProblems, ...taken(observed), ...found];
}

function taken({ job, rival }: Observed): readonly Problem[] {
  if (rival === undefined) return [];
  const { uri } = job.spec.output;
  const message = `spec.output.uri ${uri} is that of job ${rival}, which was made before and is not over: one of the two has to be deleted`;
  return [{ reason: "OutputTaken", message }];
}

function next(observed: Observed, current: readonly PodView[], stale: readonly PodView[]): Decision {
  const { job, status, pods, words, now } = observed;
  const wanted = wantedReplicas(job, status);
  const problems = problemsOf(observed);
  const report = reportOf(observed, current);
  if (job.spec.suspend) return decision(observed, { state: { kind: "suspended", problems, report }, actions: deleted(pods) });
  if (observed.rival !== undefined)
    return decision(observed, { state: { kind: "refused", problems, report }, actions: deleted(pods), again: refusedMs });
  // Pods that were made before go on: the spec that they were made of was accepted.
  if (problems.length > 0) {
    const ranks = status.world?.ranks.length ?? wanted;
    const view = worldOf({ ranks, known: status.world, pods: current, words, now });
    const again = current.length > 0 ? progressMs : undefined;
    return decision(observed, {
      state: { kind: "refused", problems, training: view.stands, report },
      view,
      actions: deleted(stale),
      again,
    });
  }
  const view = worldOf({ ranks: wanted, known: status.world, pods: current, words, now });
  const hash = observed.templateHash(imageOf(observed));
  const going = current.filter((pod) => pod.deleting || pod.hash !== hash || pod.rank >= wanted);
  const actions = deleted([...stale, ...going]);
  const { free, held } = missingRanks(observed);
  const wait = free.length > 0 ? waitOf(observed) : undefined;
  const made = wait === undefined ? free.map((rank): Action => ({ kind: "create", rank, attempt: attemptOf(status, rank) })) : [];
  const state = stateOf({ observed, current, going, view, wait: wait?.state ?? heldState(held) });
  // Who waits for one pod has others to ask.
  const again = Math.min(wait?.again ?? progressMs, current.length > 0 ? progressMs : Number.POSITIVE_INFINITY);
  return decision(observed, { state: { ...state, report }, view, actions: [...actions, ...made], again });
}

/** Progress is told by the rank that writes it down. */
const reportOf = ({ words }: Observed, current: readonly PodView[]) =>
  words.get(current.find(({ rank }) => rank === 0)?.uid ?? "")?.progress;

interface Missing {
  /** Ranks without a pod. */
  readonly free: readonly number[];
  /** A pod that has to be gone before its rank gets another: both would write the same checkpoints. */
  readonly held: PodView | undefined;
}

function missingRanks({ job, pods, status }: Observed): Missing {
  // A pod that says no rank may be any.
  const stray = pods.find(({ rank, over }) => rank < 0 && over === undefined);
  if (stray !== undefined) return { free: [], held: stray };
  const free: number[] = [];
  let held: PodView | undefined;
  for (let rank = 0; rank < wantedReplicas(job, status); rank++) {
    // The end of those with an earlier attempt was judged, even where their node cannot say so.
    const own = pods.filter((pod) => pod.rank === rank && pod.over === undefined && pod.attempt >= attemptOf(status, rank));
    if (own.length === 0) free.push(rank);
    else held ??= own.find((pod) => pod.attempt !== attemptOf(status, rank) || pod.deleting);
  }
  return { free, held };
}

interface Wait {
  readonly state: State;
  readonly again: number;
}

/** What keeps ranks from getting pods now. */
function waitOf(observed: Observed): Wait | undefined {
  const waiting = (reason: string, message: string, again: number): Wait => ({ state: { kind: "waiting", reason, message }, again });
  const [writer] = observed.otherWriters;
  if (writer !== undefined) {
    const message = `the former pod is still there: ${writer} may write ${observed.job.spec.output.uri}; delete it where no job has it`;
    return waiting("Replacing", message, progressMs);
  }
  const pause = pauseLeft(observed);
  if (pause !== undefined) {
    const message = `${pause.reason}; the next try is in ${Math.ceil(pause.ms / 1000)} s`;
    return waiting("BackOff", message.slice(0, 1500), pause.ms);
  }
  if (observed.podRefused !== undefined) {
    const message = `the API server refuses the pod: ${observed.podRefused}; correct spec.podTemplate, or the quota of the namespace`;
    return waiting("PodRefused", message, refusedMs);
  }
  return undefined;
}

const heldState = (held: PodView | undefined): State | undefined =>
  held && { kind: "waiting", reason: "Replacing", message: `the former pod is still there: ${held.name}` };

interface Standing {
  readonly observed: Observed;
  readonly current: readonly PodView[];
  /** Those that are to go, or are going. */
  readonly going: readonly PodView[];
  readonly view: WorldView;
  readonly wait: State | undefined;
}

function stateOf({ observed, current, going, view, wait }: Standing): State {
  const replicas = wantedReplicas(observed.job, observed.status);
  const { world, stands, left, ready, awaited } = view;
  const outdated = going.find(({ rank }) => rank < replicas);
  if (outdated !== undefined)
    return { kind: "waiting", reason: "Replacing", message: `pod ${outdated.name} ends, and another goes on from its checkpoint` };
  if (stands && world !== undefined) return { kind: "running", ranks: world.ranks.length, wanted: replicas };
  if (wait !== undefined) return wait;
  if (left !== undefined) return { kind: "waiting", reason: "RankLost", message: left };
  const [first = 0] = awaited;
  const pod = current.find(({ rank }) => rank === first);
  const why =
    pod === undefined ? "a pod is made" : (pod.waiting ?? `pod ${pod.name} ${pod.running ? "is asked for the first time" : "starts"}`);
  if (replicas === 1) return { kind: "waiting", reason: "Starting", message: why };
  const lost = world !== undefined && world.ranks.length === replicas;
  return {
    kind: "waiting",
    reason: lost ? "RankLost" : "WaitingForRanks",
    message: `${ready} of ${replicas} ranks wait for rank ${first}: ${why}`,
  };
}

/** The image that the job began with, unless its owner names one. */
export function imageOf({ job, status, image }: Pick<Observed, "job" | "status" | "image">): string {
  return job.spec.image ?? status.image ?? image;
}

interface Judgement {
  readonly state: State;
  readonly actions: readonly Action[];
  readonly view?: WorldView;
  /** The pod whose end this is about. */
  readonly ended?: PodView;
  readonly again?: number | undefined;
}

function decision(observed: Observed, { state, actions, view, ended: end, again }: Judgement): Decision {
  const { job, status, pods, now } = observed;
  const begins = actions.some(({ kind }) => kind === "create");
  const attempts = end === undefined ? status.attempts : raised(status.attempts ?? [], end.rank);
  const image = status.image ?? (begins ? imageOf(observed) : undefined);
  const judged: Judged = { job, status, pods, now, image, state, attempts, world: view?.world ?? status.world };
  return { status: statusOf(judged), actions, requeueAfterMs: again };
}

function raised(attempts: readonly number[], rank: number): number[] {
  const all = Array.from({ length: Math.max(attempts.length, rank + 1) }, (_, i) => attempts[i] ?? 0);
  all[rank] = (all[rank] ?? 0) + 1;
  return all;
}
