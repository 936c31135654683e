// The next step of a CA's renewal. Pure.

const hourMs = 3600_000;
const dayMs = 24 * hourMs;

/** Twice the life of a leaf, so that no leaf outlives its CA. */
export const renewBeforeMs = 730 * dayMs;
/**
 * Time for Secrets to reach pods: kubelets need about two minutes and pods another half (runtime/net/tls.ts). A node that is away longer
 * has its pods replaced.
 */
export const overlapMs = dayMs;
/** The next CA signs at once when less is left of the signing one. */
export const endingMs = hourMs;

export interface AuthorityFacts {
  readonly stage: "Steady" | "Announced" | "Succeeded";
  readonly endsMs: number;
  /** Unix ms since which every Secret matches the stage; undefined where unknown. */
  readonly standsSinceMs: number | undefined;
}

export interface Certified {
  /** Every Secret matches the stage now. */
  readonly all: boolean;
  /** An existing Secret had to be updated. */
  readonly changed: boolean;
}

export interface RotationStep {
  /** announce: create the next CA. note: the Secrets match from now on. succeed: the next CA signs. drop: the previous CA goes. */
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
  // A time in the future comes from a wrong clock.
  if (standsSinceMs === undefined || certified.changed || standsSinceMs > nowMs)
    return { type: "note", why: "all Secrets stand as they are to be" };
  if (nowMs - standsSinceMs < overlapMs) return undefined;
  return stage === "Announced"
    ? { type: "succeed", why: "all pods trust the next CA: it signs from now on, and the one before stays trusted for a day" }
    : { type: "drop", why: "all pods have certificates of the new CA: the one before is not trusted any more" };
}
