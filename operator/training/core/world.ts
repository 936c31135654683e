// Decides which pods of a job train together. A new world begins once every requested rank answers, or at once when one is lost or leaves
// and the rest suffice; until then its pods train on without the operator. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import { membersOf, type PodReport, type TrainingWorld, type WorldMember } from "../../../crds/training-world.ts";
import type { PodView } from "./pod-view.ts";

const againMs = 5_000;
/** A pod waits this long for missing ranks, from its creation; then the ready ones begin without them. */
const patienceMs = 60_000;
/** The code of a rank that leaves without steps left, while the first one writes the result. */
const completeCode = "Complete";

export interface WorldFacts {
  readonly ranks: number;
  readonly minRanks: number;
  readonly known: TrainingWorld | undefined;
  readonly pods: readonly PodView[];
  /** Keys are uids; pods that have not answered are missing. */
  readonly reports: ReadonlyMap<string, PodReport>;
  readonly now: Date;
}

export interface WorldView {
  readonly world: TrainingWorld | undefined;
  /** All pods exist, and none has left. */
  readonly stands: boolean;
  readonly left: string | undefined;
  readonly restless: boolean;
  readonly ready: number;
  readonly awaited: readonly number[];
  /** Why the ready pods do not train without the others. */
  readonly tooFew: string | undefined;
  /** Uids of pods whose state no world needs. */
  readonly stops: ReadonlySet<string>;
}

const alive = ({ running, deleting, over }: PodView): boolean => running && !deleting && over === undefined;
const isOneOf = (members: readonly WorldMember[], { uid }: PodView): boolean => members.some((member) => member.uid === uid);

interface Look {
  readonly ready: readonly PodView[];
  readonly left: string | undefined;
  readonly gone: boolean;
  /** A pod is silent and not known to be lost. */
  readonly unknown: boolean;
}

export function worldOf(facts: WorldFacts): WorldView {
  const { ranks, known, pods, reports, now } = facts;
  const look = lookAt(facts);
  const { ready, left, gone, unknown } = look;
  const awaited = Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => !ready.some((pod) => pod.rank === rank));
  const next = unknown ? undefined : nextOf(facts, look);
  const view = { ready: ready.length, awaited, tooFew: undefined };
  const leftWith = (world: TrainingWorld | undefined): ReadonlySet<string> => (unknown ? new Set() : stopsOf(pods, reports, world));
  if (next !== undefined) {
    const epoch = 1 + [...reports.values()].reduce((most, said) => Math.max(most, said.epoch), known?.epoch ?? 0);
    const { ranks: members, leaving } = next;
    const world = { epoch, since: rfc3339(now), ranks: members, ...(leaving.length > 0 && { leaving }) };
    return { ...view, world, stands: true, restless: false, left: undefined, stops: leftWith(world) };
  }
  const stands = known !== undefined && !gone && left === undefined;
  const tooFew = !stands && !unknown && survives(known, ready) ? tooFewOf(facts, ready) : undefined;
  const silent = pods.some((pod) => pod.silent && isOneOf(known?.ranks ?? [], pod));
  const restless = known !== undefined && (!stands || silent);
  return { ...view, world: known, stands, restless, left, tooFew, stops: leftWith(known) };
}

function lookAt({ ranks, known, pods, reports }: WorldFacts): Look {
  const ready = pods
    .filter((pod) => pod.rank < ranks && pod.ip !== undefined && stays(pod, reports) && reports.has(pod.uid) && !pod.silent)
    .toSorted((a, b) => a.rank - b.rank);
  const members = pods.filter((pod) => known !== undefined && isOneOf(known.ranks, pod));
  const gone = known?.ranks.some(({ uid }) => !members.some((pod) => pod.uid === uid && stays(pod, reports))) ?? false;
  const left = known && leftOf(known, reports);
  // A pod that lost another leaves too, or is lost itself. A new operator has heard nobody yet.
  const leaves = ({ uid }: PodView): boolean => (reports.get(uid)?.left?.epoch ?? 0) >= (known?.epoch ?? 0);
  const open = (pod: PodView): boolean => !reports.has(pod.uid) || (left !== undefined && !gone && !leaves(pod));
  const unknown = (gone || left !== undefined) && members.some((pod) => stays(pod, reports) && !pod.silent && open(pod));
  return { ready, left, gone, unknown };
}

const stays = (pod: PodView, reports: ReadonlyMap<string, PodReport>): boolean => alive(pod) && reports.get(pod.uid)?.leaving !== true;

const survives = (known: TrainingWorld | undefined, ready: readonly PodView[]): boolean =>
  known !== undefined && ready.some((pod) => isOneOf(known.ranks, pod));

interface Members {
  readonly ranks: WorldMember[];
  readonly leaving: WorldMember[];
}

function nextOf(facts: WorldFacts, look: Look): Members | undefined {
  const { known, now } = facts;
  const ready = ranksOf(facts, look);
  if (ready === undefined) return undefined;
  const next = { ranks: ready.map(memberOf), leaving: leavingOf(facts, ready) };
  if (known === undefined || !sameMembers(known.ranks, next.ranks)) return next;
  // The same pods get a new world after the pause, or when a leaving pod was lost.
  const due = !sameMembers(known.leaving ?? [], next.leaving) || now.getTime() >= Date.parse(known.since) + againMs;
  return look.left !== undefined && due ? next : undefined;
}

function ranksOf(facts: WorldFacts, { ready, left, gone }: Look): readonly PodView[] | undefined {
  const { ranks, known, now } = facts;
  if (ready.length === ranks) return ready;
  if (ready.length === 0 || tooFewOf(facts, ready) !== undefined) return undefined;
  const waited = ({ since }: PodView): boolean => now.getTime() >= since + patienceMs;
  if (known === undefined || !survives(known, ready)) return ready.some(waited) ? ready : undefined;
  if (gone || left !== undefined) return ready;
  const stay = known.ranks.every(({ uid }) => ready.some((pod) => pod.uid === uid));
  return stay && ready.some((pod) => !isOneOf(known.ranks, pod) && waited(pod)) ? ready : undefined;
}

function tooFewOf({ minRanks, reports }: WorldFacts, ready: readonly PodView[]): string | undefined {
  if (ready.length < minRanks) return `elasticity.minReplicas is ${minRanks}`;
  const least = ready.reduce((most, { uid }) => Math.max(most, reports.get(uid)?.leastRanks ?? 0), 0);
  if (least === 0) return "their memory is not known to be enough without the others";
  return ready.length < least ? `their memory is enough for ${least} ranks or more, by memoryPerRank` : undefined;
}

/** Pods outside the next world that can hand over state. A silent one would keep the others waiting. */
function leavingOf({ known, pods, reports }: WorldFacts, next: readonly PodView[]): WorldMember[] {
  const had = known === undefined ? [] : membersOf(known);
  const there = ({ running, over, ip, silent }: PodView): boolean => running && over === undefined && ip !== undefined && !silent;
  return pods
    .filter((pod) => there(pod) && isOneOf(had, pod) && reports.has(pod.uid) && !next.some(({ rank }) => rank === pod.rank))
    .toSorted((a, b) => a.rank - b.rank)
    .map(memberOf);
}

function stopsOf(pods: readonly PodView[], reports: ReadonlyMap<string, PodReport>, world: TrainingWorld | undefined): ReadonlySet<string> {
  const ends = pods.filter((pod) => pod.over === undefined && (pod.deleting || reports.get(pod.uid)?.leaving === true));
  return new Set(ends.filter((pod) => !isOneOf(world?.leaving ?? [], pod)).map(({ uid }) => uid));
}

const memberOf = ({ rank, name, uid, ip = "", node }: PodView): WorldMember => ({ rank, pod: name, uid, ip, node });

const sameMembers = (a: readonly WorldMember[], b: readonly WorldMember[]): boolean =>
  a.length === b.length && a.every(({ uid, ip }, i) => uid === b[i]?.uid && ip === b[i]?.ip);

function leftOf({ epoch, ranks }: TrainingWorld, reports: ReadonlyMap<string, PodReport>): string | undefined {
  for (const { rank, uid } of ranks) {
    const left = reports.get(uid)?.left;
    if (left !== undefined && left.epoch >= epoch && left.code !== completeCode)
      return `rank ${rank} left world ${left.epoch}: ${left.code}: ${left.message}`;
  }
  return undefined;
}
