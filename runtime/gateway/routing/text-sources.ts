// The ranks that a gateway reads the model's text files from, and the digest that these must have: what most ranks say. Pure.
import type { MemberState } from "../../../crds/names.ts";
import type { Member } from "../../net/mapping.ts";

interface TextSources {
  /** Best first. */
  readonly ranks: readonly Member[];
  /** Undefined where no rank says one: what is read has to fit what its own rank lists. */
  readonly digest: string | undefined;
}

/** Ranks that are asked in one round. */
export const sourcesMax = 8;

const order: Readonly<Record<MemberState, number>> = { active: 0, joining: 1, draining: 2, lost: 3 };

export function textSources(members: readonly Member[]): TextSources {
  const there = members.filter(({ state }) => state !== "lost");
  const digest = majority(there);
  // Those that have not named one yet come last.
  const place = (member: Member) => order[member.state] + (member.textDigest === undefined ? 10 : 0);
  const ranks = there
    .filter(({ textDigest }) => textDigest === undefined || textDigest === digest)
    .sort((a, b) => place(a) - place(b) || a.rank - b.rank);
  return { ranks: ranks.slice(0, sourcesMax), digest };
}

/** Of two that as many ranks have the one of the lowest rank, so that all gateways take the same. */
function majority(members: readonly Member[]): string | undefined {
  const counts = new Map<string, number>();
  for (const { textDigest } of members.toSorted((a, b) => a.rank - b.rank))
    if (textDigest !== undefined) counts.set(textDigest, (counts.get(textDigest) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
}
