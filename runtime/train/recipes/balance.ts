// The declaration of a recipe that keeps experts equally busy: a loss on the gate's shares, or a change of the gate's bias of choice.
// Both follow from how many rows each expert has in a whole step, so that lanes, and who computes them, change nothing. Pure.

/** One recipe as a run asks for it. */
export interface BalanceSetting {
  readonly name: string;
  /** The weight of the loss, or the length of a step of the bias. */
  readonly rate: number;
  /** Equal groups of neighbouring experts, for a recipe of groups. */
  readonly groups: number | undefined;
}

/** What a gate did in a step. */
export interface GateCounts {
  /** Rows that each expert has. */
  readonly rows: readonly number[];
  /** Experts that a token has, on average where tokens differ. */
  readonly topK: number;
}

export interface BalanceRecipe {
  /** It is asked for as NAME:RATE, or as NAME:RATE:GROUPS where this is true. */
  readonly grouped: boolean;
  /** A loss: its slope by the sum of each expert's shares over all tokens of the step. Rows are constants to it, so that it is the
   *  sum of slopes times shares. */
  slopes?(counts: GateCounts, setting: BalanceSetting): Float64Array;
  /** What is added to the gate's bias of choice after a step. */
  bias?(counts: GateCounts, setting: BalanceSetting): Float64Array;
}

export const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
