// The pause before something that failed is tried again. Attempts, rollout and status writer use it, each with its own bounds. Pure.

/** The pause after so many failures in a row: `first`, doubled with each further failure, at most `longest`. */
export function backoffMs(failures: number, first: number, longest: number): number {
  return Math.min(longest, first * 2 ** Math.min(failures - 1, 30));
}
