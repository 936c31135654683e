// The pause before something that failed is tried again. Attempts, rollout and status writer use it, each with its own bounds. Pure.

/** first, 2 first, 4 first ... longest */
export function backoffMs(failures: number, first: number, longest: number): number {
  return Math.min(longest, first * 2 ** Math.min(failures - 1, 30));
}
