// The next actions on worker pods: a leaving rank is marked, then emptied, then deleted. All follows from the snapshot, so that a crash
// loses nothing. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import type { PodFailure } from "../../../crds/moe-deployment-status.ts";
import { expertBudget, fit } from "../core/capacity.ts";
import {
  besides,
  emptied,
  goers,
  type HandoverInput,
  isIdle,
  isOld,
  isSpared,
  neverServed,
  noRoomForReplacement,
  rollNote,
} from "../core/handover.ts";
import { rollRules, stableCreations, stableTemplate } from "../core/rollout.ts";
import { living, type PodFacts, type Snapshot } from "../core/snapshot.ts";
import type { LeavingReason } from "../core/world.ts";

export type Action =
  /** `stable`: from the previous template. */
  | { readonly type: "create"; readonly rank: number; readonly reason: string; readonly stable: boolean }
  | { readonly type: "mark"; readonly pod: PodFacts; readonly reason: LeavingReason; readonly why: string }
  | { readonly type: "unmark"; readonly pod: PodFacts; readonly why: string }
  /** `force`: grace 0, where no kubelet receives the signal. */
  | { readonly type: "delete"; readonly pod: PodFacts; readonly force: boolean; readonly reason: string; readonly why: string };

export interface Blocked {
  readonly reason: "ScaleDownBlocked" | "NoCapacityForReplacement";
  readonly message: string;
}

export interface Step {
  readonly actions: readonly Action[];
  readonly blocked: Blocked | undefined;
  readonly note: string;
  readonly failures: readonly PodFailure[];
  readonly againInMs: number | undefined;
}

/** A terminating pod is force-deleted this long after its grace period. */
const terminatingSlackMs = 10_000;

/** Whether the API server accepts a new pod; after Refused nothing is deleted for it. */
export type Successor = "Accepted" | "Refused" | "None";

export interface PodsInput {
  readonly snapshot: Snapshot;
  readonly ranks: number;
  readonly successor: Successor;
  readonly limitBytes: number | undefined;
  /** Why no extra pod could be created; empty when none was refused. */
  readonly surgeError?: string;
}

export function nextStep(input: PodsInput): Step {
  const { snapshot, ranks, successor, limitBytes, surgeError = "" } = input;
  const gone = removals(snapshot);
  const removed = new Set(gone.actions.map((action) => (action.type === "delete" ? action.pod.uid : "")));
  const pods = living(snapshot.pods).filter((pod) => !removed.has(pod.uid));
  const staying = pods.filter((pod) => !pod.terminating);
  const failures = podFailures(snapshot);
  const rolls = successor === "Accepted";
  const asked: HandoverInput = { snapshot, staying, ranks, rolls, surgeError, limitBytes };
  const done = [...gone.actions, ...release(snapshot, staying, rolls)];
  const held = ranks === 0 ? [] : staying.filter((pod) => (rolls ? isSpared(snapshot, pod) : pod.leaving?.reason === "Roll"));
  const why = rolls ? "its template is wanted again" : "no pod can be made in its place";
  const kept = held.map((pod): Action => ({ type: "unmark", pod, why }));
  const said = { blocked: undefined, note: "", failures };
  if (successor === "None" && ranks > 0) return { ...said, actions: [...done, ...kept], againInMs: gone.againInMs };
  const going = goers(asked);
  // Without capacity for an extra pod, a terminating pod still has the place of its successor.
  const free = surgeError === "" ? freeRanks(pods, ranks + besides(asked, going)) : freeRanks(pods, ranks, pods.length);
  const waits = free.map((rank) => waitMs(failures, rank, snapshot.now));
  const handover = surgeError === "" && staying.length >= ranks ? { ...asked, surgeError: keepsEnding(failures, free, waits) } : asked;
  const stable = stableCreations(snapshot, staying, ranks);
  const created = free.flatMap((rank, i): Action[] =>
    waits[i] === 0 ? [{ type: "create", rank, reason: "Created", stable: i < stable }] : [],
  );
  const shrunk = shrink(input, staying, going);
  const still = gone.actions.length === 0 && created.length === 0 && shrunk.actions.length === 0;
  const replaced = still ? replace(handover, pods, done) : [];
  const marked = new Set(shrunk.actions.map((action) => (action.type === "create" ? "" : action.pod.uid)));
  return {
    actions: [
      ...done,
      ...kept.filter((one) => one.type === "unmark" && !marked.has(one.pod.uid)),
      ...created,
      ...shrunk.actions,
      ...replaced,
    ],
    blocked: shrunk.blocked ?? noRoomForReplacement(handover, pods),
    note: rollNote(handover),
    failures,
    againInMs: earliest([gone.againInMs, ...waits.filter((ms) => ms > 0)]),
  };
}

function keepsEnding(failures: readonly PodFailure[], free: readonly number[], waits: readonly number[]): string {
  const found = failures.find(({ rank }) => (waits[free.indexOf(rank)] ?? 0) > 0);
  return found ? `${found.count} pods of rank ${found.rank} ended in a row (${found.reason})` : "";
}

function earliest(times: readonly (number | undefined)[]): number | undefined {
  const known = times.filter((ms) => ms !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Pods that never serve again, and the younger of two with one rank. */
function removals(snapshot: Snapshot): { actions: Action[]; againInMs: number | undefined } {
  const actions: Action[] = [];
  let againInMs: number | undefined;
  for (const pod of snapshot.pods) {
    if (pod.lost)
      actions.push({ type: "delete", pod, force: true, reason: "NodeLost", why: `neither node ${pod.node ?? "?"} nor the rank answers` });
    else if (pod.terminal && !pod.terminating)
      actions.push({ type: "delete", pod, force: false, reason: "PodFailed", why: pod.problem || "it ended" });
    else if (pod.goneInMs !== undefined) {
      const leftMs = pod.goneInMs + terminatingSlackMs;
      if (leftMs <= 0) actions.push({ type: "delete", pod, force: true, reason: "StuckTerminating", why: "its grace period is over" });
      else againInMs = Math.min(againInMs ?? Number.POSITIVE_INFINITY, leftMs);
    }
  }
  const byRank = new Map<number, PodFacts>();
  for (const pod of living(snapshot.pods).sort(seniority)) {
    const holder = byRank.get(pod.rank);
    if (!holder) byRank.set(pod.rank, pod);
    else if (!pod.terminating)
      actions.push({ type: "delete", pod, force: false, reason: "DuplicateRank", why: `${holder.name} holds rank ${pod.rank}` });
  }
  return { actions, againInMs };
}

const seniority = (a: PodFacts, b: PodFacts): number =>
  Number(b.ready) - Number(a.ready) || a.createdMs - b.createdMs || (a.uid < b.uid ? -1 : 1);

/** Deletes leaving ranks that are empty, and those that must be replaced although they cannot be emptied. */
function release(snapshot: Snapshot, staying: readonly PodFacts[], rolls: boolean): Action[] {
  return staying.flatMap((pod): Action[] => {
    const reason = pod.leaving?.reason ?? (pod.mustGo === "" ? undefined : "Evict");
    if (!reason || (reason === "Roll" && (!rolls || isSpared(snapshot, pod)))) return [];
    const drain = snapshot.view?.drains.find((one) => one.podUid === pod.uid);
    const gone = (why: string): Action[] => [{ type: "delete", pod, force: false, reason: reasonOf[reason], why }];
    if (neverServed(snapshot, pod)) return gone("it never served");
    if (!pod.leaving) return [];
    if (drain?.phase === "Drained") return gone("it is empty");
    // A roll goes on without capacity: the rank comes back and loads its experts again.
    return drain?.phase === "Blocked" && reason === "Roll" ? gone(drain.message) : [];
  });
}

const reasonOf: Readonly<Record<LeavingReason, string>> = { Shrink: "ScaledDown", Roll: "Rolled", Evict: "RankMoved", Stop: "Stopped" };

export function freeRanks(
  pods: readonly PodFacts[],
  ranks: number,
  present: number = pods.filter((pod) => !pod.terminating).length,
): number[] {
  const taken = new Set(pods.map((pod) => pod.rank));
  const free: number[] = [];
  for (let rank = 0; free.length < ranks - present; rank++) if (!taken.has(rank)) free.push(rank);
  return free;
}

/** `going`: pods that are being replaced, which are no surplus. */
function shrink(
  input: PodsInput,
  staying: readonly PodFacts[],
  going: readonly PodFacts[],
): { actions: Action[]; blocked: Blocked | undefined } {
  const { snapshot, ranks } = input;
  if (ranks === 0)
    return {
      actions: staying.filter((pod) => pod.leaving?.reason !== "Stop").map((pod) => mark(pod, "Stop", "no ranks are wanted")),
      blocked: undefined,
    };
  const surplus = Math.max(0, staying.length - ranks - going.length);
  const leaving = staying.filter((pod) => pod.leaving && pod.leaving.reason !== "Roll" && !going.includes(pod));
  if (leaving.length > surplus) {
    const back = leaving.sort((a, b) => (b.leaving?.sinceMs ?? 0) - (a.leaving?.sinceMs ?? 0)).slice(0, leaving.length - surplus);
    return { actions: back.map((pod) => ({ type: "unmark", pod, why: "the rank is wanted again" })), blocked: undefined };
  }
  const blocked = surplus > 0 ? infeasible(input, staying.length) : undefined;
  if (blocked) return { actions: leaving.map((pod) => ({ type: "unmark", pod, why: blocked.message })), blocked };
  const refused = snapshot.view?.drains.find((drain) => drain.phase === "Blocked" && leaving.some((pod) => pod.uid === drain.podUid));
  const victims = staying.filter((pod) => !leaving.includes(pod) && !going.includes(pod)).sort((a, b) => victimOrder(snapshot, a, b));
  return {
    actions: victims.slice(0, surplus - leaving.length).map((pod) => mark(pod, "Shrink", `${ranks} ranks are wanted`)),
    blocked: refused ? { reason: "ScaleDownBlocked", message: refused.message || `rank ${refused.rank} cannot be emptied` } : undefined,
  };
}

const mark = (pod: PodFacts, reason: LeavingReason, why: string): Action => ({ type: "mark", pod, reason, why });

/** A shrink is refused when the remaining ranks cannot hold every expert. */
function infeasible(input: PodsInput, present: number): Blocked | undefined {
  const { model } = input.snapshot.view ?? {};
  const { spec } = input.snapshot.deployment;
  const budget = model ? expertBudget(spec, model, input.limitBytes) : undefined;
  if (!model || budget === undefined) return undefined;
  const result = fit(spec, model, input.ranks, budget);
  // Ranks that do not fit now either are refused elsewhere; scaling down must stay possible.
  return result.fits || !fit(spec, model, present, budget).fits ? undefined : { reason: "ScaleDownBlocked", message: result.message };
}

/** Ranks leave in this order: being emptied, unready, without a role of their own, fewest unique expert bytes, highest rank. */
function victimOrder(snapshot: Snapshot, a: PodFacts, b: PodFacts): number {
  const memberOf = (pod: PodFacts) => snapshot.view?.members.find((member) => member.podUid === pod.uid);
  const unique = (pod: PodFacts) => memberOf(pod)?.uniqueBytes ?? 0;
  const inRole = (pod: PodFacts) => Number(["prefill", "decode"].includes(memberOf(pod)?.role ?? "both"));
  const leaving = (pod: PodFacts) => Number(pod.leaving !== undefined && !isSpared(snapshot, pod));
  const byState = leaving(b) - leaving(a) || Number(a.ready) - Number(b.ready);
  return byState || inRole(a) - inRole(b) || unique(a) - unique(b) || b.rank - a.rank;
}

function replace(handover: HandoverInput, pods: readonly PodFacts[], done: readonly Action[]): Action[] {
  const { snapshot, staying, ranks, rolls } = handover;
  const { kept, replaces } = rollRules(snapshot, ranks);
  const stays = (pod: PodFacts) => !replaces || (kept > 0 && pod.templateHash === stableTemplate(snapshot));
  const idle = staying.filter((pod) => rolls && isOld(snapshot, pod) && !stays(pod) && isIdle(snapshot, pod) && staying.length >= ranks);
  if (idle.length > 0) {
    const gone = new Set(done.map((action) => (action.type === "delete" ? action.pod.uid : "")));
    const why = "its template is old and it does not serve";
    return idle.flatMap((pod): Action[] => (gone.has(pod.uid) ? [] : [{ type: "delete", pod, force: false, reason: "Rolled", why }]));
  }
  return emptied(handover, pods).map((pod) =>
    pod.mustGo === "" ? mark(pod, "Roll", "its template changed") : mark(pod, "Evict", pod.mustGo),
  );
}

const firstMs = 1_000;
const longestMs = 300_000;
/** A pod that lasts this long resets its rank. */
const forgivenMs = 600_000;
/** Ranks with a stored failure, at most. */
const rememberedMax = 1024;
const doublingsMax = 20;

/** The failures that count, new ones included. A changed spec resets them. */
export function podFailures({ deployment, now, pods }: Snapshot): PodFailure[] {
  const { status, metadata } = deployment;
  const before = status.observedGeneration === metadata.generation ? (status.expertParallel?.podFailures ?? []) : [];
  const recent = before.filter((one) => now.getTime() < Date.parse(one.retryTime) + forgivenMs);
  const byRank = new Map(recent.map((one) => [one.rank, one]));
  for (const pod of pods) {
    const last = byRank.get(pod.rank);
    // The copy may lack its deletion: a pod counts once.
    if (!pod.terminal || pod.terminating || last?.pod === pod.name) continue;
    const count = (last?.count ?? 0) + 1;
    const reason = (pod.problem.split(":")[0] || "Ended").slice(0, 64);
    byRank.set(pod.rank, { rank: pod.rank, count, reason, pod: pod.name, retryTime: retryTime(now, count) });
  }
  return [...byRank.values()].sort((a, b) => a.rank - b.rank).slice(0, rememberedMax);
}

/** 0 when the rank may be created now. */
export function waitMs(failures: readonly PodFailure[], rank: number, now: Date): number {
  const failure = failures.find((one) => one.rank === rank);
  const left = failure ? Date.parse(failure.retryTime) - now.getTime() : 0;
  // More than the pause itself (in whole seconds) comes from a clock that was ahead.
  return failure && left <= pauseMs(failure.count) + 1_000 ? Math.max(0, left) : 0;
}

function retryTime(now: Date, count: number): string {
  if (count <= 1) return rfc3339(now);
  return rfc3339(new Date(Math.ceil((now.getTime() + pauseMs(count)) / 1000) * 1000));
}

const pauseMs = (count: number): number => (count <= 1 ? 0 : Math.min(longestMs, firstMs * 2 ** Math.min(count - 2, doublingsMax)));
