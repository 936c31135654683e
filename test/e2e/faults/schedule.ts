// The order of faults of one seed: every kind as often as every other, give or take one, shuffled. Pure, so that a seed repeats a run.
import { seeded, shuffled } from "../../../operator/planner/random.ts";

export interface Turn {
  readonly kind: string;
  /** Chooses among those that may be struck. */
  readonly draw: number;
}

/** Draws are below this. */
const drawsBelow = 1_000_000;

export function scheduleOf(seed: number, count: number, kinds: readonly string[]): readonly Turn[] {
  const random = seeded(seed);
  const turns: Turn[] = [];
  while (turns.length < count) {
    const round = shuffled(kinds.length, random).map((i) => kinds[i] as string);
    turns.push(...round.slice(0, count - turns.length).map((kind) => ({ kind, draw: random.below(drawsBelow) })));
  }
  return turns;
}

/** One of them, by the draw. */
export function drawn<T>(all: readonly T[], draw: number, what: string): T {
  if (all.length === 0) throw new Error(`there is no ${what} to strike`);
  return all[draw % all.length] as T;
}
