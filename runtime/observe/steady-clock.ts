// A clock that nobody sets: the wall clock at its start, steady from then on, so that a set clock shifts no window and ends no request.

/** Unix ms, whole. */
export type SteadyClock = () => number;

export function steadyClock(): SteadyClock {
  const begunAt = Date.now() - performance.now();
  return () => Math.floor(begunAt + performance.now());
}
