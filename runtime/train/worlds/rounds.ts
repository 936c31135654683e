// Rounds of worlds: how many meetings a state has behind it, and the stored state from which worlds continue together.

/** `unmet` marks a state that has made all steps of a round but has not met yet. */
export interface Kept {
  readonly step: number;
  readonly unmet: boolean;
}

/** The next meeting's step while `step` is in progress. */
export const meetingOf = (step: number, localSteps: number): number => Math.ceil(step / localSteps) * localSteps;

export const roundOf = ({ step, unmet }: Kept, localSteps: number): number => Math.floor(step / localSteps) - Number(unmet);

export function keptIn(round: number, kept: readonly Kept[], localSteps: number): Kept | undefined {
  return kept.filter((each) => roundOf(each, localSteps) === round).toSorted((a, b) => b.step - a.step)[0];
}

/** The newest round up to this one with a stored state, or the start. */
export function newestRound(upTo: number, kept: readonly Kept[], localSteps: number): number {
  return kept.map((each) => roundOf(each, localSteps)).reduce((newest, round) => (round <= upTo ? Math.max(newest, round) : newest), 0);
}

/** The step of the newest earlier checkpoint of all worlds, which stays until all have the next. */
export const sparedBefore = (step: number, everySteps: number): number => Math.floor((step - 1) / everySteps) * everySteps;
