// The rules of a roll to another worker template. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { OnFailure, RolloutType } from "../../../crds/names.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { budgetsOf } from "../../../crds/rollout.ts";
import { judgeCanaries, judgesByTime } from "./canary.ts";
import { isHopeless } from "./ends.ts";
import type { RollFailure } from "./green-look.ts";
import { living, type PodFacts, type Snapshot, servingPods } from "./snapshot.ts";

const replacesByItself: Readonly<Record<RolloutType, boolean>> = { RollingUpdate: true, OnDelete: false };
const rollsBack: Readonly<Record<OnFailure, boolean>> = { RollBack: true, Wait: false };

export const rollsBackOn = ({ onFailure }: MoEDeploymentSpec["rolloutStrategy"]): boolean => rollsBack[onFailure];

/** Crashes before serving, after which a template is broken. */
const crashesMax = 3;
/** Reasons of the kubelet for images that waiting does not bring. */
const imagesNeverThere = ["InvalidImageName", "ErrImageNeverPull"];

export interface RollRules {
  readonly surge: number;
  /** Ranks that may lack a serving pod. */
  readonly unavailable: number;
  /** Ranks that keep the old template. */
  readonly kept: number;
  /** False with OnDelete. */
  readonly replaces: boolean;
}

const isNew = (snapshot: Snapshot, pod: PodFacts): boolean => pod.templateHash === snapshot.templateHash;

interface ModelChange {
  readonly strategy: MoEDeploymentSpec["rolloutStrategy"];
  readonly pods: readonly PodFacts[];
  readonly stable: string | undefined;
  readonly wanted: string;
}

/** The strategy holds a change of model as a whole; a change that already has ranks goes on. */
export function holdsModel({ strategy: { type, paused, partition }, pods, stable, wanted }: ModelChange): boolean {
  if (stable === undefined || stable === wanted) return false;
  const there = living(pods).map(({ model }) => model);
  if (there.includes(wanted)) return false;
  return paused || partition > 0 || (!replacesByItself[type] && there.includes(stable));
}

/** Undefined where the requested model is the stable one. */
function modelChange({ deployment, pods, rollout }: Snapshot): "Held" | "Free" | undefined {
  const { stable, wanted } = rollout?.models ?? {};
  if (stable === undefined || wanted === undefined || stable === wanted) return undefined;
  return holdsModel({ strategy: deployment.spec.rolloutStrategy, pods, stable, wanted }) ? "Held" : "Free";
}

export function rollRules(snapshot: Snapshot, ranks: number): RollRules {
  const { type } = snapshot.deployment.spec.rolloutStrategy;
  const { surge, unavailable } = budgetsOf(snapshot.deployment.spec.rolloutStrategy, ranks);
  // A rollback does not wait: the failed template leaves every rank.
  if (snapshot.rollout?.rolledBack) return { surge, unavailable, kept: 0, replaces: true };
  const change = modelChange(snapshot);
  if (change) return { surge, unavailable, kept: change === "Held" ? ranks : 0, replaces: true };
  return { surge, unavailable, kept: keptRanks(snapshot, ranks), replaces: replacesByItself[type] };
}

function keptRanks(snapshot: Snapshot, ranks: number): number {
  const { paused, partition, canary } = snapshot.deployment.spec.rolloutStrategy;
  // A roll finishes what it has begun.
  const fresh = living(snapshot.pods).filter((pod) => isNew(snapshot, pod) && !pod.terminating && !pod.leaving).length;
  if (paused) return Math.max(0, ranks - fresh);
  const first = canary && !isBaked(snapshot) ? canary.ranks : ranks;
  return Math.min(ranks, Math.max(partition, ranks - first, 0));
}

function isBaked({ deployment, templateHash }: Snapshot): boolean {
  const { bakedTemplateHash, stableTemplateHash } = deployment.status.rollout ?? {};
  return templateHash === bakedTemplateHash || templateHash === stableTemplateHash;
}

/** Lost ranks that keep the old template get this one; undefined if unknown. */
export function stableTemplate({ deployment, templateHash, rollout }: Snapshot): string | undefined {
  const hash = deployment.status.rollout?.stableTemplateHash;
  return hash !== templateHash && rollout?.revisions.some((one) => one.templateHash === hash) ? hash : undefined;
}

export function stableCreations(snapshot: Snapshot, staying: readonly PodFacts[], ranks: number): number {
  const { kept, replaces } = rollRules(snapshot, ranks);
  if (kept === 0 || !replaces || stableTemplate(snapshot) === undefined) return 0;
  const have = staying.filter((pod) => !isNew(snapshot, pod) && pod.leaving === undefined && pod.mustGo === "").length;
  return Math.max(0, kept - have);
}

export function canaryRanks({ rolloutStrategy }: MoEDeploymentSpec, ranks: number): number {
  const { canary, partition } = rolloutStrategy;
  return canary ? Math.min(canary.ranks, Math.max(0, ranks - partition)) : 0;
}

export interface Hold {
  readonly phase: "Paused" | "Partitioned" | "Baking" | "OnDelete";
  readonly message: string;
}

/** Why an unfinished roll pauses. */
export function rollHold(snapshot: Snapshot, ranks: number): Hold | undefined {
  const { spec, status } = snapshot.deployment;
  const { paused, canary } = spec.rolloutStrategy;
  const pods = living(snapshot.pods);
  const old = pods.filter((pod) => !isNew(snapshot, pod));
  const { kept, replaces } = rollRules(snapshot, ranks);
  const moving = pods.some((pod) => pod.terminating || pod.leaving || pod.mustGo !== "") || pods.length !== ranks;
  if (ranks === 0 || moving) return undefined;
  const held = heldModel(snapshot);
  if (held !== undefined) return { phase: modelPhase(spec.rolloutStrategy), message: `${ranks} ranks keep the model before: ${held}` };
  if (old.length === 0) return undefined;
  const still = `${old.length} of ${ranks} ranks keep the template before`;
  if (!replaces) return { phase: "OnDelete", message: `${still} until their pods are deleted` };
  if (old.length > kept || servingPods(snapshot).length < ranks) return undefined;
  if (paused) return { phase: "Paused", message: `${still} while spec.rolloutStrategy.paused is true` };
  if (!canary || isBaked(snapshot)) return { phase: "Partitioned", message: `${still}, as spec.rolloutStrategy.partition says` };
  const since = status.rollout?.bakeStart ?? "now";
  const bakes = `${ranks - old.length} canaries serve since ${since}, for ${canary.analysis.bake}`;
  const verdict = judgesByTime(canary.analysis) ? undefined : judgeCanaries(canary.analysis, snapshot.rollout?.comparison);
  return { phase: "Baking", message: [still, bakes, ...(verdict ? [verdict.message] : [])].join("; ") };
}

export function heldModel(snapshot: Snapshot): string | undefined {
  if (modelChange(snapshot) !== "Held") return undefined;
  const { paused, partition } = snapshot.deployment.spec.rolloutStrategy;
  const all = "all ranks change their model at once, when";
  if (paused) return `${all} spec.rolloutStrategy.paused is false`;
  if (partition > 0) return `${all} spec.rolloutStrategy.partition is 0`;
  return `${all} spec.rolloutStrategy.type is RollingUpdate, or spec.suspend has stopped them`;
}

function modelPhase({ paused, partition }: MoEDeploymentSpec["rolloutStrategy"]): Hold["phase"] {
  if (paused) return "Paused";
  return partition > 0 ? "Partitioned" : "OnDelete";
}

export interface RollJudgement {
  readonly failure: RollFailure | undefined;
  /** Milliseconds until a starting pod exceeds its time. */
  readonly dueInMs: number | undefined;
}

/** Its pods stay until they are judged. */
export function canRollBack(snapshot: Snapshot): boolean {
  const { rolloutStrategy } = snapshot.deployment.spec;
  const acts = rollsBackOn(rolloutStrategy) && replacesByItself[rolloutStrategy.type];
  return acts && !snapshot.rollout?.rolledBack && stableTemplate(snapshot) !== undefined;
}

export function judgeRoll(snapshot: Snapshot): RollJudgement {
  const { deployment, now } = snapshot;
  const { progressDeadline } = deployment.spec.rolloutStrategy;
  if (!canRollBack(snapshot)) return { failure: undefined, dueInMs: undefined };
  const fresh = living(snapshot.pods).filter((pod) => isNew(snapshot, pod));
  const judged = judgePods(fresh, { progressDeadline, now });
  return judged.failure ? judged : { ...judged, failure: canaryFailure(snapshot) };
}

export function judgePods(
  pods: readonly PodFacts[],
  { progressDeadline, now }: { readonly progressDeadline: string; readonly now: Date },
): RollJudgement {
  const fresh = pods.filter((pod) => !pod.terminating && !pod.silent && pod.mustGo === "");
  const served = fresh.some((pod) => pod.ready);
  const deadlineMs = parseDuration(progressDeadline, "spec.rolloutStrategy.progressDeadline");
  let dueInMs: number | undefined;
  for (const pod of fresh) {
    if (pod.unreadySinceMs === undefined) continue;
    const left = pod.unreadySinceMs + deadlineMs - now.getTime();
    const failure = broken(pod, { late: left <= 0, served, progressDeadline });
    if (failure) return { failure, dueInMs: undefined };
    if (left > 0) dueInMs = Math.min(dueInMs ?? left, left);
  }
  return { failure: undefined, dueInMs };
}

function canaryFailure(snapshot: Snapshot): RollFailure | undefined {
  const { canary } = snapshot.deployment.spec.rolloutStrategy;
  const comparison = snapshot.rollout?.comparison;
  const verdict = canary && comparison ? judgeCanaries(canary.analysis, comparison) : undefined;
  return verdict?.type === "Failed" ? verdict : undefined;
}

interface Lateness {
  readonly late: boolean;
  readonly served: boolean;
  readonly progressDeadline: string;
}

function broken(pod: PodFacts, { late, served, progressDeadline }: Lateness): RollFailure | undefined {
  const [word = ""] = pod.problem.split(":");
  const says = `pod ${pod.name} of rank ${pod.rank}`;
  const why = pod.problem === "" ? "" : `: ${pod.problem}`;
  if (imagesNeverThere.includes(word)) return { reason: "ImageUnavailable", message: `${says}${why}` };
  if (isHopeless(pod.end)) return { reason: "Crashing", message: `${says} cannot start${why}` };
  if (pod.restarts >= crashesMax) return { reason: "Crashing", message: `${says} has crashed ${pod.restarts} times${why}` };
  // A template that serves elsewhere is not at fault where one pod finds no node.
  if (!late || (served && word === "Unschedulable")) return undefined;
  return { reason: "ProgressDeadlineExceeded", message: `${says} is not ready after ${progressDeadline}${why}` };
}
