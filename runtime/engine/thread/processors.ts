// The processors reserved for a worker, and so its default number of threads.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

export function processorsIn(list: string): number {
  const ranges = list.trim().split(",").filter(Boolean);
  return ranges.reduce((sum, range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return sum + (last as number) - first + 1;
  }, 0);
}

/**
 * Processors: `online` in the machine, `allowed` to this process, `available` after a quota, `whole` requested exclusively; undefined when
 * unknown.
 */
interface Seen {
  readonly online: number;
  readonly allowed: number;
  readonly available: number;
  readonly whole?: number | undefined;
}

/**
 * A process that is restricted to some processors, but not to less time than they have, owns them: by a static CPU manager, or by taskset.
 */
export function ownThreads({ online, allowed, available, whole = allowed }: Seen): number {
  return allowed < online && available >= allowed && allowed <= whole ? allowed : 1;
}

/** 1 where the system does not report processors. */
export function threadsHere(whole: number | undefined): number {
  try {
    const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    if (list === undefined) return 1;
    return ownThreads({ online: cpus().length, allowed: processorsIn(list), available: availableParallelism(), whole });
  } catch {
    return 1;
  }
}
