// The world of a training job from what is observed: the pods that train together, one a rank. Another one is decided once every rank that
// is wanted has a pod that answers, and these are not those of the last world, or one of them has left it. Until then the last one stands:
// its pods go on by themselves, whatever becomes of the operator. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import type { PodWords, TrainingWorld, WorldMember } from "../../../crds/training-world.ts";
import type { PodView } from "./pod-view.ts";

/** The same pods get no other world sooner than this after the last: where one cannot stand, it is tried again in peace. */
const againMs = 5_000;
/** What a rank says that leaves since no step is left, while the first one writes the result. */
const completeCode = "Complete";

export interface WorldFacts {
  /** Ranks that are wanted. */
  readonly ranks: number;
  /** The world that was decided last. */
  readonly known: TrainingWorld | undefined;
  /** Newest pods of ranks. */
  readonly pods: readonly PodView[];
  /** What pods say, by uid. One that has not answered yet has said nothing. */
  readonly words: ReadonlyMap<string, PodWords>;
  readonly now: Date;
}

export interface WorldView {
  /** The newest, decided now or before. */
  readonly world: TrainingWorld | undefined;
  /** Its pods are there, and none is known to have left it. */
  readonly stands: boolean;
  /** Why a pod left the newest world. */
  readonly left: string | undefined;
  /** Pods that could train now. */
  readonly ready: number;
  /** Wanted ranks that have none, lowest first. */
  readonly awaited: readonly number[];
}

const alive = ({ running, deleting, over }: PodView): boolean => running && !deleting && over === undefined;

export function worldOf(facts: WorldFacts): WorldView {
  const { ranks, known, pods, words, now } = facts;
  const members: WorldMember[] = [];
  const awaited: number[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    const member = memberOf(facts, rank);
    if (member === undefined) awaited.push(rank);
    else members.push(member);
  }
  const same = known !== undefined && sameMembers(known.ranks, members);
  const left = known && leftOf(known, words);
  const due = known === undefined || now.getTime() >= Date.parse(known.since) + againMs;
  if (awaited.length === 0 && (!same || (left !== undefined && due))) {
    const epoch = 1 + [...words.values()].reduce((most, said) => Math.max(most, said.epoch), known?.epoch ?? 0);
    return { world: { epoch, since: rfc3339(now), ranks: members }, stands: true, left: undefined, ready: ranks, awaited };
  }
  const there = known?.ranks.every(({ uid }) => pods.some((pod) => pod.uid === uid && alive(pod))) ?? false;
  return { world: known, stands: there && left === undefined, left, ready: members.length, awaited };
}

function memberOf({ pods, words }: WorldFacts, of: number): WorldMember | undefined {
  const pod = pods.find(({ rank }) => rank === of);
  if (pod?.ip === undefined || !alive(pod) || !words.has(pod.uid)) return undefined;
  return { rank: of, pod: pod.name, uid: pod.uid, ip: pod.ip, node: pod.node };
}

const sameMembers = (a: readonly WorldMember[], b: readonly WorldMember[]): boolean =>
  a.length === b.length && a.every(({ uid, ip }, i) => uid === b[i]?.uid && ip === b[i]?.ip);

function leftOf({ epoch, ranks }: TrainingWorld, words: ReadonlyMap<string, PodWords>): string | undefined {
  for (const { rank, uid } of ranks) {
    const left = words.get(uid)?.left;
    if (left !== undefined && left.epoch >= epoch && left.code !== completeCode)
      return `rank ${rank} left world ${left.epoch}: ${left.code}: ${left.message}`;
  }
  return undefined;
}
