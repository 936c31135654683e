// Chooses the ranks to read text files from, and the digest that most ranks report for them.
import type { MemberState } from "../../../crds/names.ts";
import type { Member } from "../../net/mapping.ts";

interface TextSources {
  /** Best first. */
  readonly ranks: readonly Member[];
  /** Undefined where no rank reports one; the files must then match their own rank's list. */
  readonly digest: string | undefined;
}

/** Ranks asked per round. */
export const sourcesMax = 8;

const order: Readonly<Record<MemberState, number>> = { active: 0, joining: 1, draining: 2, lost: 3 };

export function textSources(members: readonly Member[]): TextSources {
  const there = members.filter(({ state }) => state !== "lost");
  const digest = majority(there);
  // Ranks without a digest come last.
  const place = (member: Member) => order[member.state] + (member.textDigest === undefined ? 10 : 0);
  const ranks = there
    .filter(({ textDigest }) => textDigest === undefined || textDigest === digest)
    .sort((a, b) => place(a) - place(b) || a.rank - b.rank);
  return { ranks: ranks.slice(0, sourcesMax), digest };
}

/** A tie goes to the digest of the lowest rank, so that all gateways agree. */
function majority(members: readonly Member[]): string | undefined {
  const counts = new Map<string, number>();
  for (const { textDigest } of members.toSorted((a, b) => a.rank - b.rank))
    if (textDigest !== undefined) counts.set(textDigest, (counts.get(textDigest) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
}
