// The time of an expert's rows on an engine: a table by rows, measured within a bounded time.

/** Seconds of an expert of 1, 2, 4, ... rows, and what the engine takes once beside all its experts. */
export interface EngineTimes {
  readonly start: number;
  readonly seconds: readonly number[];
}

const rowsMost = 512;
/** Milliseconds for one table; longer only for one row. */
const measureMsMax = 250;
const runs = 3;
/** An expert's time is the difference between so many and one of them, since engines compute several in one graph. */
export const expertsTimed = 4;

/** Between two measured numbers of rows on a line, and beyond them on the last one. */
export function secondsOf({ seconds }: EngineTimes, rows: number): number {
  if (seconds.length < 2) return (seconds[0] ?? 0) * rows;
  const at = Math.min(31 - Math.clz32(rows), seconds.length - 2);
  const [low, high] = [seconds[at] as number, seconds[at + 1] as number];
  return low + ((high - low) * (rows - 2 ** at)) / 2 ** at;
}

interface Measuring {
  /** The most that run at once. */
  readonly experts?: number;
  readonly now?: () => number;
}

/** `run`: false where there is no memory for so many rows, which ends the table. Undefined if there is none for one row. */
export async function measureTimes(
  run: (experts: number, rows: number) => Promise<unknown>,
  { experts = expertsTimed, now = () => performance.now() }: Measuring = {},
): Promise<EngineTimes | undefined> {
  const until = now() + measureMsMax;
  const fastest = async (count: number, rows: number): Promise<number> => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i <= runs; i++) {
      const startedAt = now();
      if ((await run(count, rows)) === false) return Number.NaN;
      if (i > 0) least = Math.min(least, now() - startedAt); // the first one builds the graph
    }
    return least / 1000;
  };
  const seconds: number[] = [];
  let start = 0;
  for (let rows = 1; rows <= rowsMost && (rows === 1 || now() < until); rows *= 2) {
    const one = await fastest(1, rows);
    const several = experts > 1 ? await fastest(experts, rows) : one;
    const apart = experts > 1 ? Math.max((several - one) / (experts - 1), several / (4 * experts)) : one;
    if (Number.isNaN(apart)) break;
    const own = Math.max(apart, seconds.at(-1) ?? 0);
    if (rows === 1) start = Math.max(0, one - own);
    seconds.push(own);
  }
  return seconds.length > 0 ? { start, seconds } : undefined;
}
