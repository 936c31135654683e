// Rounds of worlds: how many meetings a state has behind it, and from which of the states that a world has kept it goes on together with
// the others. Pure.

/** A state that was kept. One that has made all steps of a round and has not met yet is `unmet`. */
export interface Kept {
  readonly step: number;
  readonly unmet: boolean;
}

/** The step at which worlds meet next once `step` is under way. */
export const meetingOf = (step: number, localSteps: number): number => Math.ceil(step / localSteps) * localSteps;

/** Meetings that a state has behind it. */
export const roundOf = ({ step, unmet }: Kept, localSteps: number): number => Math.floor(step / localSteps) - Number(unmet);

/** What was kept of a round, the newest; undefined where nothing was, as of round 0 at the start. */
export function keptIn(round: number, kept: readonly Kept[], localSteps: number): Kept | undefined {
  return kept.filter((each) => roundOf(each, localSteps) === round).toSorted((a, b) => b.step - a.step)[0];
}

/** The newest round up to this one that something was kept of, or the start. */
export function newestRound(upTo: number, kept: readonly Kept[], localSteps: number): number {
  return kept.map((each) => roundOf(each, localSteps)).reduce((newest, round) => (round <= upTo ? Math.max(newest, round) : newest), 0);
}

/** The step of the newest checkpoint before this one that all worlds wrote: none may drop it until all have the next. */
export const sparedBefore = (step: number, everySteps: number): number => Math.floor((step - 1) / everySteps) * everySteps;
