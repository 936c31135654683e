// The next actions that bring the pods closer to the wanted ranks: remove dead pods, fill free ranks, empty and release surplus ranks,
// roll pods of an old template one at a time. Pure and stateless: everything is derived from the snapshot, so a crash loses nothing.
// A rank that leaves is marked on its pod first, then the rebalance plane empties it, and only then the pod goes. Nothing that serves
// is deleted for a new pod unless the API server takes that pod.
import type { PodFailure } from "../../../crds/moe-deployment-status.ts";
import { expertBudget, fit } from "./memory-fit.ts";
import { podFailures, waitMs } from "./rank-backoff.ts";
import { isMember, living, type PodFacts, type Snapshot } from "./snapshot.ts";
import type { LeavingReason } from "./world.ts";

export type Action =
  | { readonly type: "create"; readonly rank: number; readonly reason: string }
  | { readonly type: "mark"; readonly pod: PodFacts; readonly reason: LeavingReason; readonly why: string }
  | { readonly type: "unmark"; readonly pod: PodFacts; readonly why: string }
  /** `force` is a grace of 0, since nobody is there to take the signal. */
  | { readonly type: "delete"; readonly pod: PodFacts; readonly force: boolean; readonly reason: string; readonly why: string };

export interface Blocked {
  readonly reason: "ScaleDownBlocked";
  readonly message: string;
}

export interface Step {
  readonly actions: readonly Action[];
  readonly blocked: Blocked | undefined;
  /** Ranks whose pods ended lately. */
  readonly failures: readonly PodFailure[];
  /** Milliseconds after which to look again, even if nothing changes. */
  readonly againInMs: number | undefined;
}

/** A terminating pod is forced out this long after its grace period. */
const terminatingSlackMs = 10_000;

/**
 * The outlook of a pod that would be made now. Accepted: the API server takes it. Refused: it did not take it just now, so that it
 * is tried for ranks that are missing and nothing is deleted for it. None: there is no template to make one of.
 */
export type Successor = "Accepted" | "Refused" | "None";

export interface PodsInput {
  readonly snapshot: Snapshot;
  readonly ranks: number;
  readonly successor: Successor;
  readonly limitBytes: number | undefined;
}

export function nextStep(input: PodsInput): Step {
  const { snapshot, ranks, successor } = input;
  const gone = removals(snapshot);
  const removed = new Set(gone.actions.map((action) => (action.type === "delete" ? action.pod.uid : "")));
  const pods = living(snapshot.pods).filter((pod) => !removed.has(pod.uid));
  const failures = podFailures(snapshot);
  const rolls = successor === "Accepted";
  const done = [...gone.actions, ...release(snapshot, pods, rolls)];
  const held = rolls || ranks === 0 ? [] : pods.filter((pod) => pod.leaving?.reason === "Roll" && !pod.terminating);
  const kept = held.map((pod): Action => ({ type: "unmark", pod, why: "no pod can be made in its place" }));
  if (successor === "None" && ranks > 0) return { actions: [...done, ...kept], blocked: undefined, failures, againInMs: gone.againInMs };
  const free = freeRanks(pods, ranks);
  const waits = free.map((rank) => waitMs(failures, rank, snapshot.now));
  const created = free.filter((_, i) => waits[i] === 0).map((rank): Action => ({ type: "create", rank, reason: "Created" }));
  const shrunk = shrink(input, pods);
  const still = gone.actions.length === 0 && created.length === 0 && shrunk.actions.length === 0;
  const rolled = rolls && still ? roll(snapshot, pods, ranks) : [];
  const marked = new Set(shrunk.actions.map((action) => (action.type === "create" ? "" : action.pod.uid)));
  return {
    actions: [
      ...done,
      ...kept.filter((one) => one.type === "unmark" && !marked.has(one.pod.uid)),
      ...created,
      ...shrunk.actions,
      ...rolled,
    ],
    blocked: shrunk.blocked,
    failures,
    againInMs: earliest([gone.againInMs, ...waits.filter((ms) => ms > 0)]),
  };
}

function earliest(times: readonly (number | undefined)[]): number | undefined {
  const known = times.filter((ms) => ms !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Pods that will never serve again, and the younger of two with one rank. */
function removals(snapshot: Snapshot): { actions: Action[]; againInMs: number | undefined } {
  const actions: Action[] = [];
  let againInMs: number | undefined;
  const now = snapshot.now.getTime();
  for (const pod of snapshot.pods) {
    if (pod.lost)
      actions.push({ type: "delete", pod, force: true, reason: "NodeLost", why: `neither node ${pod.node ?? "?"} nor the rank answers` });
    else if (pod.terminal && !pod.terminating)
      actions.push({ type: "delete", pod, force: false, reason: "PodFailed", why: pod.problem || "it ended" });
    else if (pod.goneByMs !== undefined) {
      const overdue = now - (pod.goneByMs + terminatingSlackMs);
      if (overdue >= 0) actions.push({ type: "delete", pod, force: true, reason: "StuckTerminating", why: "its grace period is over" });
      else againInMs = Math.min(againInMs ?? Number.POSITIVE_INFINITY, -overdue);
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

/** Leaving ranks that are empty, or that cannot be emptied but must be replaced all the same. */
function release(snapshot: Snapshot, pods: readonly PodFacts[], rolls: boolean): Action[] {
  return pods.flatMap((pod): Action[] => {
    if (!pod.leaving || pod.terminating || (pod.leaving.reason === "Roll" && !rolls)) return [];
    const drain = snapshot.view?.drains.find((one) => one.podUid === pod.uid);
    const force = false;
    if (drain?.phase === "Drained") return [{ type: "delete", pod, force, reason: reasonOf[pod.leaving.reason], why: "it is empty" }];
    // A roll must go on even where the others have no room: the rank comes back and loads its experts again.
    if (drain?.phase === "Blocked" && pod.leaving.reason === "Roll")
      return [{ type: "delete", pod, force, reason: "Rolled", why: drain.message }];
    if (neverServed(snapshot, pod)) return [{ type: "delete", pod, force, reason: reasonOf[pod.leaving.reason], why: "it never served" }];
    return [];
  });
}

/** No process of it was ever reached. One that was may hold experts, whatever its probe says: the rebalance plane empties it. */
function neverServed({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  const member = view?.members.find((one) => one.podUid === pod.uid);
  return !warmingUp && !pod.ready && (member?.bootId ?? "") === "";
}

const reasonOf: Readonly<Record<LeavingReason, string>> = { Shrink: "ScaledDown", Roll: "Rolled", Stop: "Stopped" };

/** The smallest ranks without a pod, as many as are wanted. */
export function freeRanks(pods: readonly PodFacts[], ranks: number): number[] {
  const taken = new Set(pods.map((pod) => pod.rank));
  const missing = ranks - taken.size;
  const free: number[] = [];
  for (let rank = 0; free.length < missing; rank++) if (!taken.has(rank)) free.push(rank);
  return free;
}

function shrink(input: PodsInput, pods: readonly PodFacts[]): { actions: Action[]; blocked: Blocked | undefined } {
  const { snapshot, ranks } = input;
  const stop = ranks === 0;
  const surplus = Math.max(0, pods.length - ranks);
  const staying = pods.filter((pod) => !pod.terminating);
  const leaving = staying.filter((pod) => pod.leaving && pod.leaving.reason !== "Roll");
  const going = pods.length - staying.length + leaving.length;
  if (stop)
    return {
      actions: staying.filter((pod) => pod.leaving?.reason !== "Stop").map((pod) => mark(pod, "Stop", "no ranks are wanted")),
      blocked: undefined,
    };
  if (going > surplus) {
    // Wanted again: those marked last come back first.
    const back = leaving.sort((a, b) => (b.leaving?.sinceMs ?? 0) - (a.leaving?.sinceMs ?? 0)).slice(0, going - surplus);
    return { actions: back.map((pod) => ({ type: "unmark", pod, why: "the rank is wanted again" })), blocked: undefined };
  }
  const blocked = surplus > 0 ? infeasible(input, pods.length) : undefined;
  if (blocked) return { actions: leaving.map((pod) => ({ type: "unmark", pod, why: blocked.message })), blocked };
  const refused = snapshot.view?.drains.find((drain) => drain.phase === "Blocked" && leaving.some((pod) => pod.uid === drain.podUid));
  const victims = staying.filter((pod) => !leaving.includes(pod)).sort((a, b) => victimOrder(snapshot, a, b));
  return {
    actions: victims.slice(0, surplus - going).map((pod) => mark(pod, "Shrink", `${ranks} ranks are wanted`)),
    blocked: refused ? { reason: "ScaleDownBlocked", message: refused.message || `rank ${refused.rank} cannot be emptied` } : undefined,
  };
}

const mark = (pod: PodFacts, reason: LeavingReason, why: string): Action => ({ type: "mark", pod, reason, why });

/** A shrink is refused when the ranks that stay cannot hold one copy of every expert. */
function infeasible(input: PodsInput, present: number): Blocked | undefined {
  const { model } = input.snapshot.view ?? {};
  const budget = model ? expertBudget(input.snapshot.deployment.spec, model, input.limitBytes) : undefined;
  if (!model || budget === undefined) return undefined;
  const result = fit(model, input.ranks, budget);
  // Ranks that do not fit now either are refused as a whole elsewhere; going down must stay possible then.
  return result.fits || !fit(model, present, budget).fits ? undefined : { reason: "ScaleDownBlocked", message: result.message };
}

/**
 * Orders the candidates for leaving: those being emptied anyway, then unready ones, then those with the fewest unique expert
 * bytes, then the highest rank.
 */
function victimOrder(snapshot: Snapshot, a: PodFacts, b: PodFacts): number {
  const unique = (pod: PodFacts) => snapshot.view?.members.find((member) => member.podUid === pod.uid)?.uniqueBytes ?? 0;
  const leaving = (pod: PodFacts) => Number(pod.leaving !== undefined);
  return leaving(b) - leaving(a) || Number(a.ready) - Number(b.ready) || unique(a) - unique(b) || b.rank - a.rank;
}

/** Its probe fails, and yet its stream says that it serves, or there was no time to hear of it. */
function mayServe({ view, warmingUp }: Snapshot, pod: PodFacts): boolean {
  return warmingUp || (view?.members.some((member) => member.podUid === pod.uid && member.active) ?? false);
}

/** One pod of an old template at a time, and only while all others serve; old pods that do not serve go at once. */
function roll(snapshot: Snapshot, pods: readonly PodFacts[], ranks: number): Action[] {
  const old = pods.filter((pod) => pod.templateHash !== snapshot.templateHash && !pod.terminating);
  if (old.length === 0 || pods.length !== ranks) return [];
  const idle = old.filter((pod) => !pod.ready && !pod.leaving && !mayServe(snapshot, pod));
  if (idle.length > 0)
    return idle.map((pod) => ({ type: "delete", pod, force: false, reason: "Rolled", why: "its template is old and it does not serve" }));
  const busy = pods.some((pod) => pod.leaving || pod.terminating || !pod.ready || !isMember(snapshot, pod));
  const next = [...old].sort((a, b) => b.rank - a.rank)[0];
  return busy || !next ? [] : [mark(next, "Roll", "its template changed")];
}
