// The processors that are a worker's own, and so the threads that it may compute on without being asked: threads that wait for each other
// on processors of others are slower than one.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

/** The processors that a list such as "0-3,8" names. */
export function processorsIn(list: string): number {
  const ranges = list.trim().split(",").filter(Boolean);
  return ranges.reduce((sum, range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return sum + (last as number) - first + 1;
  }, 0);
}

/** Processors as a process sees them: `online` those of the machine, `allowed` those it may run on, `available` the same, less what a quota
 *  takes, and `whole` those that it has asked for as its own; undefined where nobody says. */
interface Seen {
  readonly online: number;
  readonly allowed: number;
  readonly available: number;
  readonly whole?: number | undefined;
}

/** A process that may run on some processors of the machine only, and is not limited to less time than they have, was given them: by a
 *  static CPU manager for a pod of whole CPUs, or by taskset. */
export function ownThreads({ online, allowed, available, whole = allowed }: Seen): number {
  return allowed < online && available >= allowed && allowed <= whole ? allowed : 1;
}

/** Of this process; one where the system does not tell. */
export function threadsHere(whole: number | undefined): number {
  try {
    const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    if (list === undefined) return 1;
    return ownThreads({ online: cpus().length, allowed: processorsIn(list), available: availableParallelism(), whole });
  } catch {
    return 1;
  }
}
