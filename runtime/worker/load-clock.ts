// The clock by which a rank tells its windows of load: the wall clock as it was when the process began, and from then on steady, so that
// a wall clock that is set neither stretches a window nor turns it round. Control.Watch tells the operator how far it is from its own.

/** Unix ms, whole. */
export type LoadClock = () => number;

export function loadClock(): LoadClock {
  const begunAt = Date.now() - performance.now();
  return () => Math.floor(begunAt + performance.now());
}
