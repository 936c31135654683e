// The exponential pause before a retry.

/** `first`, doubled with each further failure, at most `longest`. */
export function backoffMs(failures: number, first: number, longest: number): number {
  return Math.min(longest, first * 2 ** Math.min(failures - 1, 30));
}
