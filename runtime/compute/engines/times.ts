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

export async function measureTimes(
  run: (experts: number, rows: number) => Promise<unknown>,
  now: () => number = () => performance.now(),
): Promise<EngineTimes> {
  const until = now() + measureMsMax;
  const fastest = async (experts: number, rows: number): Promise<number> => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i <= runs; i++) {
      const startedAt = now();
      await run(experts, rows);
      if (i > 0) least = Math.min(least, now() - startedAt); // the first one builds the graph
    }
    return least / 1000;
  };
  const seconds: number[] = [];
  let start = 0;
  for (let rows = 1; rows <= rowsMost && (rows === 1 || now() < until); rows *= 2) {
    const [one, several] = [await fastest(1, rows), await fastest(expertsTimed, rows)];
    const own = Math.max((several - one) / (expertsTimed - 1), several / (4 * expertsTimed), seconds.at(-1) ?? 0);
    if (rows === 1) start = Math.max(0, one - own);
    seconds.push(own);
  }
  return { start, seconds };
}
