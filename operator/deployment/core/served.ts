// The requests that two sides have served since a bake began. A new leader starts from its own first look, and needs as many requests
// again. Pure.
import type { Comparison } from "./canary.ts";
import type { PodFacts } from "./snapshot.ts";
import type { MemberView, ServedTotals } from "./world.ts";

export interface Watched {
  readonly bake: string;
  /** Totals at the first look, by process. */
  readonly first: ReadonlyMap<string, ServedTotals>;
}

const none: ServedTotals = { requests: 0, failed: 0, gaps: 0, gapMicros: 0 };

/** Pods that are compared as one, with their ranks' reports. */
interface Side {
  readonly pods: readonly PodFacts[];
  readonly members: readonly MemberView[];
}

export interface BakeLook {
  /** Identifies the bake; another one counts anew. */
  readonly bake: string;
  readonly canaries: Side;
  readonly others: Side;
}

export function compareServed(
  before: Watched | undefined,
  { bake, canaries, others }: BakeLook,
): { readonly comparison: Comparison; readonly watched: Watched } {
  const first = new Map(before?.bake === bake ? before.first : []);
  const since = (member: MemberView | undefined): ServedTotals | undefined => {
    if (!member?.served) return undefined;
    const from = first.get(processOf(member)) ?? member.served;
    first.set(processOf(member), from);
    return plus(member.served, from, -1);
  };
  const of = ({ pods, members }: Side): ServedTotals | undefined => {
    const serving = pods.filter((pod) => pod.ready && !pod.terminating);
    const totals = serving.map((pod) => since(members.find((member) => member.podUid === pod.uid)));
    return totals.length === 0 || totals.includes(undefined)
      ? undefined
      : totals.reduce((sum, one) => plus(sum ?? none, one ?? none, 1), none);
  };
  const comparison = { canaries: of(canaries), others: of(others) };
  const here = new Set([...canaries.members, ...others.members].map(processOf));
  for (const process of first.keys()) if (!here.has(process)) first.delete(process);
  return { comparison, watched: { bake, first } };
}

const processOf = ({ podUid, bootId }: MemberView): string => `${podUid}/${bootId}`;

function plus(a: ServedTotals, b: ServedTotals, sign: 1 | -1): ServedTotals {
  return {
    requests: a.requests + sign * b.requests,
    failed: a.failed + sign * b.failed,
    gaps: a.gaps + sign * b.gaps,
    gapMicros: a.gapMicros + sign * b.gapMicros,
  };
}
