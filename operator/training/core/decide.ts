// The next step of a training job: its status and the pods to delete or create. Pure; the status has a pod's end before the pod is deleted,
// so that a crash loses nothing.
import { trainingProblems } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import { checked, sizeProblems, type Unchecked } from "./check.ts";
import { afterEnd, ended, foremostEnd, isAlone, pauseLeft, raised } from "./ends.ts";
import { imageOf, type Observed, type Problem } from "./observed.ts";
import type { PodView } from "./pod-view.ts";
import { stillOfBefore, wantedReplicas } from "./spawn.ts";
import { type AloneState, type Judged, type State, statusOf } from "./status.ts";
import { type WorldView, worldOf } from "./world.ts";

export type Action =
  | { readonly kind: "delete"; readonly name: string; readonly uid: string }
  /** Named by rank and attempt, so that a repeated action creates no second pod. */
  | { readonly kind: "create"; readonly rank: number; readonly attempt: number }
  | { readonly kind: "check"; readonly attempt: number };

export interface Decision {
  readonly status: MoETrainingJobStatus;
  readonly actions: readonly Action[];
  readonly requeueAfterMs: number | undefined;
  readonly restless: boolean;
  /** Uids of pods whose state no world needs. */
  readonly stops: ReadonlySet<string>;
  /** Training pods exist or are about to: the PodGroup is needed. */
  readonly gathers: boolean;
}

const progressMs = 2_000;
/** Poll interval while a world may not hold. */
const soonMs = 500;
/** A superseded pod is deleted after this; until then it hands over its state. */
const handOnMsMax = 120_000;
/** A check's pod waits this long beside training pods; then they make way. */
const besideMsMax = 120_000;
const refusedMs = 30_000;

export const isTrue = (status: MoETrainingJobStatus, type: string): boolean =>
  status.conditions?.some((one) => one.type === type && one.status === "True") ?? false;

export const isOver = (status: MoETrainingJobStatus): boolean => isTrue(status, "Complete") || isTrue(status, "Failed");

const attemptOf = ({ attempts = [] }: MoETrainingJobStatus, rank: number): number => attempts[rank] ?? 0;

const deleted = (pods: readonly PodView[]): Action[] =>
  pods.filter(({ deleting }) => !deleting).map(({ name, uid }) => ({ kind: "delete", name, uid }));

/** What is known of an end is said again, whatever somebody wrote into the status. */
function overState({ conditions = [] }: MoETrainingJobStatus): State {
  const failed = conditions.find(({ type, status }) => type === "Failed" && status === "True");
  if (isTrue({ conditions }, "Complete") || failed === undefined) return { kind: "complete" };
  return { kind: "over", why: failed.message };
}

export function decide(given: Observed): Decision {
  const { pods } = given;
  if (isOver(given.status)) return decision(given, { state: overState(given.status), actions: deleted(pods) });
  let observed = given;
  let endState: AloneState | undefined;
  // Each iteration counts the end of one pod, whose attempt is then over.
  for (;;) {
    const { status } = observed;
    const current = pods.filter(({ rank, attempt }) => rank >= 0 && attempt === attemptOf(status, rank));
    const stale = pods.filter((pod) => !current.includes(pod));
    const end = foremostEnd(current);
    if (end === undefined) return next(observed, { current, stale, endState });
    const state = ended(observed, end);
    // A job that ends needs no other rank.
    if (!isAlone(state)) return decision(observed, { state, ended: end, actions: deleted(pods) });
    endState ??= isFirst(observed, end) ? state : { ...state, report: undefined };
    observed = { ...observed, status: afterEnd(status, state, end.rank) };
  }
}

/** Others may end long after they left their world and would set the progress back. */
const isFirst = ({ status: { world } }: Observed, { uid }: PodView): boolean => world === undefined || world.ranks[0]?.uid === uid;

function problemsOf(observed: Observed): readonly Problem[] {
  const { job, status, templateProblems, place } = observed;
  const { refusal } = status;
  const found = refusal?.generation === job.metadata.generation ? [refusal] : [];
  return [...trainingProblems(job.spec), ...templateProblems, ...taken(observed), ...place.problems, ...found];
}

function taken({ job, rival }: Observed): readonly Problem[] {
  if (rival === undefined) return [];
  const { uri } = job.spec.output;
  const message = `spec.output.uri ${uri} is that of job ${rival}, which was made before and is not over: one of the two has to be deleted`;
  return [{ reason: "OutputTaken", message }];
}

const problemsOfRanks = ({ job, status, groupProblems }: Observed): readonly Problem[] => [
  ...(status.check ? sizeProblems({ job }, status.check, wantedReplicas(job, status)) : []),
  ...groupProblems,
];

interface PodsByAttempt {
  readonly current: readonly PodView[];
  readonly stale: readonly PodView[];
  readonly endState: AloneState | undefined;
}

function next(given: Observed, byAttempt: PodsByAttempt): Decision {
  const { job, pods } = given;
  const problems = problemsOf(given);
  const report = byAttempt.endState?.report ?? reportOf(given, byAttempt.current);
  if (job.spec.suspend) return decision(given, { state: { kind: "suspended", problems, report }, actions: deleted(pods) });
  if (given.rival !== undefined)
    return decision(given, { state: { kind: "refused", problems, report }, actions: deleted(pods), again: refusedMs });
  if (problems.length > 0) return asTheyAre(given, byAttempt, (training) => ({ kind: "refused", problems, training, report }));
  const found = checked(given);
  const observed = { ...given, status: { ...given.status, check: found.check } };
  if (found.kind === "waits") return unchecked(observed, byAttempt, found);
  const refusal = found.kind === "refused" ? found.refusal : undefined;
  const refused = refusal === undefined ? problemsOfRanks(observed) : [refusal];
  if (refused.length === 0) return toTrain(observed, byAttempt);
  return asTheyAre(observed, byAttempt, (training) => ({
    kind: "refused",
    problems: refused,
    training,
    report,
    ...(refusal && { refusal }),
  }));
}

function asTheyAre(
  observed: Observed,
  { current, stale }: PodsByAttempt,
  stateFor: (training: boolean) => State,
  more?: Checking,
): Decision {
  const { job, status, reports, now } = observed;
  const wanted = wantedReplicas(job, status);
  const ranks = 1 + (status.world?.ranks.at(-1)?.rank ?? wanted - 1);
  const minRanks = Math.min(job.spec.elasticity.minReplicas, wanted);
  const view = worldOf({ ranks, minRanks, known: status.world, pods: current, reports, now });
  // Pods of others wake no job.
  const claims = observed.place.problems.length > 0 ? [refusedMs] : [];
  const looks = [...(current.length > 0 ? [lookMs(view)] : []), ...(more === undefined ? [] : [more.again]), ...claims];
  return decision(observed, {
    state: stateFor(view.stands),
    view,
    actions: [...deleted([...stale, ...(more?.going ?? [])]), ...(more?.actions ?? [])],
    again: looks.length === 0 ? undefined : Math.min(...looks),
    check: more?.check,
  });
}

interface Checking {
  readonly again: number;
  readonly going: readonly PodView[];
  readonly actions: readonly Action[];
  readonly check: PodView | undefined;
}

/** A spec gets no pods before its check; older pods make way where the check finds no node. */
function unchecked(observed: Observed, byAttempt: PodsByAttempt, found: Unchecked): Decision {
  const { pod: check, reason, message, again, makes = false } = found;
  const waits = check !== undefined && !check.running && observed.now.getTime() >= check.since + besideMsMax;
  const hash = observed.templateHash(imageOf(observed));
  const going = waits ? byAttempt.current.filter((pod) => pod.hash !== hash) : [];
  const attempt = observed.status.check?.attempt ?? 0;
  const report = byAttempt.endState?.report ?? reportOf(observed, byAttempt.current);
  const actions: readonly Action[] = makes ? [{ kind: "check", attempt }] : [];
  const stateFor = (training: boolean): State => ({ kind: "checking", reason, message, training, report });
  return asTheyAre(observed, byAttempt, stateFor, { again, going, actions, check });
}

function toTrain(observed: Observed, { current, stale, endState }: PodsByAttempt): Decision {
  const { job, status, reports, now } = observed;
  const wanted = wantedReplicas(job, status);
  const minRanks = Math.min(job.spec.elasticity.minReplicas, wanted);
  const report = endState?.report ?? reportOf(observed, current);
  const hash = observed.templateHash(imageOf(observed));
  const stays = (pod: PodView) => !pod.deleting && pod.hash === hash && !observed.place.astray.has(pod.uid);
  const planned = current.map((pod) => (stays(pod) ? pod : { ...pod, deleting: true }));
  const view = worldOf({ ranks: wanted, minRanks, known: status.world, pods: planned, reports, now });
  const going = current.filter((pod) => !stays(pod) || isIdle(pod, observed, view));
  const actions = deleted([...stale, ...going]);
  const { free, held } = missingRanks(observed);
  const wait = free.length > 0 ? waitOf(observed) : undefined;
  // The status records a pod's end before another is created.
  const makes = wait === undefined && endState === undefined;
  const made = makes ? free.map((rank): Action => ({ kind: "create", rank, attempt: attemptOf(status, rank) })) : [];
  const state = stateOf({ observed, current, going, view, endState, wait: wait?.state ?? heldState(held) });
  const asks = current.length > 0 ? lookMs(view) : Number.POSITIVE_INFINITY;
  const again = Math.min(wait?.again ?? progressMs, asks, endState === undefined ? Number.POSITIVE_INFINITY : soonMs);
  return decision(observed, { state: { ...state, report }, view, actions: [...actions, ...made], again });
}

const lookMs = ({ restless }: WorldView): number => (restless ? soonMs : progressMs);

/** A surplus rank that has left the world, or has run out of time to hand over. */
function isIdle({ rank, uid }: PodView, { job, status, now }: Observed, { world }: WorldView): boolean {
  if (rank < wantedReplicas(job, status) || world?.ranks.some((member) => member.uid === uid)) return false;
  const leaves = world?.leaving?.some((member) => member.uid === uid) ?? false;
  return !leaves || now.getTime() >= Date.parse(world?.since ?? "") + handOnMsMax;
}

function reportOf({ reports, status }: Observed, current: readonly PodView[]) {
  const first = status.world?.ranks[0]?.uid ?? current.find(({ rank }) => rank === 0)?.uid ?? "";
  return reports.get(first)?.progress;
}

interface Missing {
  readonly free: readonly number[];
  /** It must be gone before its rank gets another: both would write the same checkpoints. */
  readonly held: PodView | undefined;
}

function missingRanks({ job, pods, status }: Observed): Missing {
  // A pod without a readable rank may be any of them.
  const stray = pods.find(({ rank, over }) => rank < 0 && over === undefined);
  if (stray !== undefined) return { free: [], held: stray };
  const free: number[] = [];
  let held: PodView | undefined;
  for (let rank = 0; rank < wantedReplicas(job, status); rank++) {
    // Earlier attempts are judged, even where their node cannot confirm the end.
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

interface StateFacts {
  readonly observed: Observed;
  readonly current: readonly PodView[];
  readonly going: readonly PodView[];
  readonly view: WorldView;
  readonly endState: AloneState | undefined;
  readonly wait: State | undefined;
}

function stateOf(facts: StateFacts): State {
  const { observed, going, view, endState, wait } = facts;
  const replicas = wantedReplicas(observed.job, observed.status);
  const { world, stands, left, ready, tooFew } = view;
  const outdated = going.find(({ rank }) => rank < replicas);
  const why = whyAwaited(facts);
  if (stands && world !== undefined) return runningState(facts, world.ranks.length, endState === undefined ? why : endText(endState));
  if (endState !== undefined) return endState;
  if (outdated !== undefined)
    return { kind: "waiting", reason: "Replacing", message: `pod ${outdated.name} ends, and another goes on from its checkpoint` };
  if (wait !== undefined) return wait;
  const few = tooFew === undefined ? "" : `; the others do not train without it: ${tooFew}`;
  if (left !== undefined) return { kind: "waiting", reason: "RankLost", message: `${left}${few}` };
  if (replicas === 1) return { kind: "waiting", reason: "Starting", message: why };
  const message = `${ready} of ${replicas} ranks wait for rank ${view.awaited[0] ?? 0}: ${why}${few}`;
  return { kind: "waiting", reason: world !== undefined && tooFew !== undefined ? "RankLost" : "WaitingForRanks", message };
}

function whyAwaited({ current, view: { awaited } }: StateFacts): string {
  const pod = current.find(({ rank }) => rank === (awaited[0] ?? 0));
  if (pod === undefined) return "a pod is made";
  if (pod.deleting) return `pod ${pod.name} ends`;
  if (pod.silent) return `pod ${pod.name} does not answer`;
  return pod.waiting ?? `pod ${pod.name} ${pod.running ? "is asked for the first time" : "starts"}`;
}

const endText = (endState: AloneState): string =>
  endState.kind === "restarting" ? `${endState.failure.reason}: ${endState.failure.message}` : endState.message;

function runningState({ observed, wait }: StateFacts, ranks: number, why: string): State {
  const { job, status } = observed;
  const replicas = wantedReplicas(job, status);
  const before = status.conditions?.find(({ type }) => type === "Running");
  const another = before?.observedGeneration !== job.metadata.generation;
  const asked = another || before?.reason === "Rescaling" || (before?.reason !== "FewerRanks" && stillOfBefore(job, status, ranks));
  const waits = wait?.kind === "waiting" ? `${wait.reason}: ${wait.message}` : why;
  return { kind: "running", ranks, wanted: replicas, why: asked || ranks >= replicas ? undefined : waits };
}

interface Judgement {
  readonly state: State;
  readonly actions: readonly Action[];
  readonly view?: WorldView;
  readonly ended?: PodView;
  readonly again?: number | undefined;
  readonly check?: PodView | undefined;
}

function decision(observed: Observed, { state, actions, view, ended: end, again, check }: Judgement): Decision {
  const { job, status, pods, now } = observed;
  const checked = deleted(observed.checks.filter((one) => one !== check));
  const begins = actions.some(({ kind }) => kind === "create");
  const attempts = end === undefined ? status.attempts : raised(status.attempts ?? [], end.rank);
  const image = status.image ?? (begins ? imageOf(observed) : undefined);
  const judged: Judged = { job, status, pods, now, image, state, attempts, world: view?.world ?? status.world };
  return {
    status: statusOf(judged),
    // Deletions of checks come first: a claim may admit one pod at a time.
    actions: [...checked, ...actions],
    requeueAfterMs: again,
    restless: view?.restless ?? false,
    stops: view?.stops ?? endsOf(pods),
    gathers: gatheringKinds.includes(state.kind) || pods.some((pod) => pod.over === undefined && !pod.deleting && !isDeleted(pod, actions)),
  };
}

const gatheringKinds: readonly State["kind"][] = ["running", "waiting", "restarting"];

const isDeleted = ({ uid }: PodView, actions: readonly Action[]): boolean =>
  actions.some((action) => action.kind === "delete" && action.uid === uid);

const endsOf = (pods: readonly PodView[]): ReadonlySet<string> =>
  new Set(pods.filter(({ deleting, over }) => deleting && over === undefined).map(({ uid }) => uid));
