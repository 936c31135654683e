// When a step of training is committed: a rank reports its norm once all gradients that it holds are complete, so whoever has all norms
// knows that everybody can finish. Pure.

/** Where one rank stands; steps count from 1, and 0 is the state that a run begins with. */
export interface CommitState {
  /** The last step that is in its state; -1 where it holds nothing. */
  readonly applied: number;
  /** The step whose gradients are complete for all that it holds; `applied` where none is. */
  readonly prepared: number;
  /** The last step of which it has all norms; -1 where it has none. */
  readonly decided: number;
}

export const nothingHeld: CommitState = { applied: -1, prepared: -1, decided: -1 };

export type StepEvent = "gradients complete" | "all norms here" | "updated";

/** Where a rank stands after an event of a step. An event out of its turn is a mistake of the caller. */
export function afterEvent(commitState: CommitState, event: StepEvent, step: number): CommitState {
  const { applied, prepared, decided } = commitState;
  const next = applied + 1 === step;
  if (event === "gradients complete" && next) return { applied, prepared: step, decided };
  if (event === "all norms here" && next && prepared === step) return { applied, prepared, decided: step };
  if (event === "updated" && next && decided === step) return { applied: step, prepared, decided };
  throw new TypeError(`${event} of step ${step} in step ${applied + 1}, prepared ${prepared}, norms of ${decided}`);
}

/** A rank at the begin of a world: where it stands, and the units whose state it has. */
export interface Holder extends CommitState {
  readonly held: ReadonlySet<number>;
}

/** `finish`: update by the norms that another has; `drop`: its state is of another step than the others go on from. */
type Settling = "keep" | "finish" | "drop";

export interface Settled {
  /** The step that all go on from. */
  readonly step: number;
  readonly ranks: readonly Settling[];
  /** A rank that has the norms of that step; -1 where nobody needs them. */
  readonly giver: number;
}

interface Unsettled {
  /** Units that nobody has at the last step that somebody has. */
  readonly missing: readonly number[];
}

/**
 * The last step that the ranks can all be brought to: every one of `units` is with a rank that has made it, or that has its gradients
 * while somebody has all norms. Without one the state is that of a checkpoint.
 */
export function settle(holders: readonly Holder[], units: number): Settled | Unsettled {
  const steps = [...new Set(holders.flatMap(({ applied, decided }) => [applied, decided]))].filter((step) => step >= 0);
  let missing: readonly number[] | undefined;
  for (const step of steps.toSorted((a, b) => b - a)) {
    const giver = holders.findIndex(({ decided }) => decided === step);
    const ranks = holders.map((holder) => settling(holder, step, giver >= 0));
    const held = new Set(holders.flatMap((holder, rank) => (ranks[rank] === "drop" ? [] : [...holder.held])));
    const without = Array.from({ length: units }, (_, unit) => unit).filter((unit) => !held.has(unit));
    if (without.length === 0) return { step, ranks, giver };
    missing ??= without;
  }
  return { missing: missing ?? Array.from({ length: units }, (_, unit) => unit) };
}

function settling({ applied, prepared }: CommitState, step: number, norms: boolean): Settling {
  if (applied === step) return "keep";
  return applied >= 0 && prepared === step && norms ? "finish" : "drop";
}
