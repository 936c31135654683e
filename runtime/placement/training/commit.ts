// When a training step is committed: a rank reports its norm once all its gradients are complete, so whoever has all norms knows that
// every rank can finish.

/** The state of one rank; steps count from 1, and 0 is the initial state. */
export interface CommitState {
  /** The last step in its state; -1 where it holds nothing. */
  readonly applied: number;
  /** The step whose gradients are complete; `applied` without one. */
  readonly prepared: number;
  /** The last step of which it has all norms, or -1. */
  readonly decided: number;
}

export const nothingHeld: CommitState = { applied: -1, prepared: -1, decided: -1 };

export type StepEvent = "gradients complete" | "all norms here" | "updated";

/** The state after a step's event. An event out of order is a bug of the caller. */
export function afterEvent(commitState: CommitState, event: StepEvent, step: number): CommitState {
  const { applied, prepared, decided } = commitState;
  const next = applied + 1 === step;
  if (event === "gradients complete" && next) return { applied, prepared: step, decided };
  if (event === "all norms here" && next && prepared === step) return { applied, prepared, decided: step };
  if (event === "updated" && next && decided === step) return { applied: step, prepared, decided };
  throw new TypeError(`${event} of step ${step} in step ${applied + 1}, prepared ${prepared}, norms of ${decided}`);
}

export interface Holder extends CommitState {
  readonly held: ReadonlySet<number>;
}

/** `finish`: update by the norms of another rank; `drop`: its state is of another step. */
type Settling = "keep" | "finish" | "drop";

export interface Settled {
  readonly step: number;
  readonly ranks: readonly Settling[];
  /** A rank with the norms of that step; -1 where nobody needs them. */
  readonly giver: number;
}

interface Unsettled {
  readonly missing: readonly number[];
}

/**
 * The last step to which all ranks can be brought: each of `units` is on a rank that has made it, or that has its gradients while some
 * rank has all norms. Otherwise the state comes from a checkpoint.
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
