// The requests that ranks of a deployment have served since its canaries bake, from the totals of their processes. The totals at the
// first look are kept in memory: another leader compares from its own first look on, and needs as many requests again.
import type { Comparison } from "./core/canary.ts";
import type { PodFacts } from "./core/snapshot.ts";
import type { MemberView, ServedTotals } from "./core/world.ts";

interface Watched {
  readonly bake: string;
  /** The totals at the first look, by process. */
  readonly first: Map<string, ServedTotals>;
}

const none: ServedTotals = { requests: 0, failed: 0, gaps: 0, gapMicros: 0 };

/** Pods that are compared as one, and what the ranks of their world say. */
interface Side {
  readonly pods: readonly PodFacts[];
  readonly members: readonly MemberView[];
}

export interface BakeLook {
  readonly uid: string;
  /** Names the bake: another one begins to count anew. */
  readonly bake: string;
  readonly canaries: Side;
  readonly others: Side;
}

export class ServedWatch {
  readonly #watched = new Map<string, Watched>();

  compare({ uid, bake, canaries, others }: BakeLook): Comparison {
    const before = this.#watched.get(uid);
    const watched = before?.bake === bake ? before : { bake, first: new Map<string, ServedTotals>() };
    this.#watched.set(uid, watched);
    const of = ({ pods, members }: Side): ServedTotals | undefined => {
      const told = pods
        .filter((pod) => pod.ready && !pod.terminating)
        .map((pod) =>
          sinceFirst(
            watched,
            members.find((member) => member.podUid === pod.uid),
          ),
        );
      return told.length === 0 || told.includes(undefined) ? undefined : told.reduce((sum, one) => plus(sum ?? none, one ?? none, 1), none);
    };
    const comparison = { canaries: of(canaries), others: of(others) };
    const here = new Set([...canaries.members, ...others.members].map(processOf));
    for (const process of watched.first.keys()) if (!here.has(process)) watched.first.delete(process);
    return comparison;
  }

  forget(uid: string): void {
    this.#watched.delete(uid);
  }
}

const processOf = ({ podUid, bootId }: MemberView): string => `${podUid}/${bootId}`;

function sinceFirst({ first }: Watched, member: MemberView | undefined): ServedTotals | undefined {
  if (!member?.served) return undefined;
  const process = processOf(member);
  const from = first.get(process) ?? member.served;
  first.set(process, from);
  return plus(member.served, from, -1);
}

function plus(a: ServedTotals, b: ServedTotals, sign: 1 | -1): ServedTotals {
  return {
    requests: a.requests + sign * b.requests,
    failed: a.failed + sign * b.failed,
    gaps: a.gaps + sign * b.gaps,
    gapMicros: a.gapMicros + sign * b.gapMicros,
  };
}
