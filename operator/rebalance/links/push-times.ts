// When memberships are pushed. Their bytes grow with the square of the world, so pushes are spaced in large worlds: DECISIONS.md 6.
import type { Member } from "../ports.ts";

const bytesPerMember = 165;
/** The network budget of delayed memberships, and a tenth of a core to encrypt them. */
const bytesPerSecondMost = 10 * 2 ** 20;
const waitMsMost = 2_000;

/** The delay of the next membership in ms: a second for 256 ranks. */
export const spacingMs = (members: number): number =>
  Math.min(waitMsMost, Math.floor((members ** 2 * bytesPerMember * 1000) / bytesPerSecondMost));

/** True where only new or newly serving members differ, so that no call fails meanwhile. */
export function mayWait(before: readonly Member[], now: readonly Member[]): boolean {
  const next = new Map(now.map((member) => [member.rank, member]));
  return before.every((old) => {
    const member = next.get(old.rank);
    if (member?.podUid !== old.podUid || member.bootId !== old.bootId || member.address !== old.address) return false;
    return member.state === old.state || member.state === "active";
  });
}
