// A monotonic Unix clock: the wall clock at its start, unaffected by later clock changes.

/** Whole Unix ms. */
export type SteadyClock = () => number;

export function steadyClock(): SteadyClock {
  const begunAt = Date.now() - performance.now();
  return () => Math.floor(begunAt + performance.now());
}
