// The next step in the renewal of a CA, from what stands in its Secret. Pure.

const hourMs = 3600_000;
const dayMs = 24 * hourMs;

/** A CA is renewed when less than this is left of it: twice the life of a leaf, so that none is cut short by its CA's end. */
export const renewBeforeMs = 730 * dayMs;
/**
 * Secrets have to stand for so long before anything relies on them: kubelets hand a changed Secret on within about two minutes, and
 * pods read it within another half (runtime/net/tls.ts); a node that is away for longer has its pods replaced.
 */
export const overlapMs = dayMs;
/** With less than this left of the CA that signs, the next one signs at once. */
export const endingMs = hourMs;

export interface AuthorityFacts {
  readonly stage: "Steady" | "Announced" | "Succeeded";
  /** The end of the CA that signs. */
  readonly endsMs: number;
  /** Since when every Secret stands as the stage wants it; undefined while that was not seen. */
  readonly standsSinceMs: number | undefined;
}

/** What a pass over the certificates of all pods and gateways found. */
export interface Certified {
  /** Every Secret is now as the stage wants it. */
  readonly all: boolean;
  /** One that was there had to be brought up to date. */
  readonly changed: boolean;
}

export interface RotationStep {
  /** announce: make the next CA. note: the Secrets stand from now on. succeed: the next signs. drop: the one before goes. */
  readonly type: "announce" | "note" | "succeed" | "drop";
  readonly why: string;
}

export function rotationStep(
  { stage, endsMs, standsSinceMs }: AuthorityFacts,
  certified: Certified,
  nowMs: number,
): RotationStep | undefined {
  const end = new Date(endsMs).toISOString();
  if (stage === "Steady")
    return endsMs - nowMs < renewBeforeMs
      ? { type: "announce", why: `the CA ends at ${end}: the next one is trusted from now on, and signs when all pods had it for a day` }
      : undefined;
  if (stage === "Announced" && endsMs - nowMs < endingMs)
    return { type: "succeed", why: `the CA ends at ${end}: the next one signs at once, whether or not all pods have it` };
  if (stage === "Succeeded" && endsMs - nowMs < renewBeforeMs)
    return { type: "drop", why: "the CA before has ended long ago, and the next renewal is due" };
  if (!certified.all) return undefined;
  // A time that is still to come was noted by a clock that was wrong.
  if (standsSinceMs === undefined || certified.changed || standsSinceMs > nowMs)
    return { type: "note", why: "all Secrets stand as they are to be" };
  if (nowMs - standsSinceMs < overlapMs) return undefined;
  return stage === "Announced"
    ? { type: "succeed", why: "all pods trust the next CA: it signs from now on, and the one before stays trusted for a day" }
    : { type: "drop", why: "all pods have certificates of the new CA: the one before is not trusted any more" };
}
