// A clock that nobody sets: the wall clock as it was when it was made, and steady from then on. Setting the wall clock neither stretches
// a rank's windows of load nor turns them round (Control.Watch tells the operator how far it is from its own), and ends no request.

/** Unix ms, whole. */
export type SteadyClock = () => number;

export function steadyClock(): SteadyClock {
  const begunAt = Date.now() - performance.now();
  return () => Math.floor(begunAt + performance.now());
}
