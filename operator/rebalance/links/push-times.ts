// The times at which a membership is pushed. Each goes to every rank and has a line for every rank, so that its bytes grow with the square
// of the world: while hundreds of ranks come up, one for each of them would fill the network. Pure; links.ts pushes.
import type { Member } from "../ports.ts";

/** A member's line, about. */
const bytesPerMember = 165;
/** Memberships that may wait take as much of the operator's network, and a tenth of a core to encrypt. */
const bytesPerSecondMost = 10 * 2 ** 20;
const waitMsMost = 2_000;

/** Milliseconds after a membership in which the next one may wait: nothing to speak of in small worlds, a second for 256 ranks. */
export const spacingMs = (members: number): number =>
  Math.min(waitMsMost, Math.floor((members ** 2 * bytesPerMember * 1000) / bytesPerSecondMost));

/** True where nobody is asked in vain for not knowing yet: all that is new is who has come, and who serves now. */
export function mayWait(before: readonly Member[], now: readonly Member[]): boolean {
  const next = new Map(now.map((member) => [member.rank, member]));
  return before.every((old) => {
    const member = next.get(old.rank);
    if (member?.podUid !== old.podUid || member.bootId !== old.bootId || member.address !== old.address) return false;
    return member.state === old.state || member.state === "active";
  });
}
