// Recent recommendations for the number of ranks, and their extremes over a stabilization window. In memory: a new leader acts after it has
// seen a whole window. Pure.

interface Asked {
  readonly at: number;
  readonly ranks: number;
}

/** Oldest first, without a gap of more than `gapMax`. */
export type History = readonly Asked[];

export const askMs = 5_000;
/** After a longer gap the history starts anew. */
const gapMax = 60_000;
/** One hour, the longest window. */
const entriesMax = 3_600_000 / askMs + 2;

/** Keeps one entry older than `keepMs`, so that a window can be whole. */
export function remembered(history: History, now: Asked, keepMs: number): History {
  const last = history.at(-1);
  if (last && last.at - now.at > askMs) return [now]; // the clock was set back, so that the age of the others is unknown
  if (last && now.at - last.at < askMs) return history;
  if (last && now.at - last.at > gapMax) return [now];
  const old = history.findLastIndex(({ at }) => now.at - at >= keepMs);
  return [...history.slice(Math.max(0, old)), now].slice(-entriesMax);
}

interface Span {
  readonly least: number;
  readonly most: number;
  /** False while the history is shorter than the window. */
  readonly whole: boolean;
}

export function over(history: History, windowMs: number, { at: now, ranks }: Asked): Span {
  const inside = history.filter(({ at }) => now - at <= windowMs).map((one) => one.ranks);
  const first = history[0]?.at ?? now;
  return { least: Math.min(ranks, ...inside), most: Math.max(ranks, ...inside), whole: now - first >= windowMs };
}
