// The numbers of ranks that the load has asked for lately, and what they come to over a stabilization window. Kept in memory: another
// leader begins anew, and acts on nothing before it has seen a whole window. Pure.

interface Asked {
  /** Unix ms. */
  readonly at: number;
  readonly ranks: number;
}

/** Oldest first, without a gap of more than `gapMax`. */
export type History = readonly Asked[];

/** The load is asked this often. */
export const askMs = 5_000;
/** After so long without an answer the history begins anew: what happened meanwhile is not known. */
const gapMax = 60_000;
/** One hour, the longest window, and what lies before it. */
const entriesMax = 3_600_000 / askMs + 2;

/** The history with what is asked for now. It keeps one entry that is older than `keepMs`, so that a whole window can be told. */
export function remembered(history: History, now: Asked, keepMs: number): History {
  const last = history.at(-1);
  if (last && last.at - now.at > askMs) return [now]; // the clock was set back: how long ago the others are is not known
  if (last && now.at - last.at < askMs) return history;
  if (last && now.at - last.at > gapMax) return [now];
  const old = history.findLastIndex(({ at }) => now.at - at >= keepMs);
  return [...history.slice(Math.max(0, old)), now].slice(-entriesMax);
}

interface Span {
  readonly least: number;
  readonly most: number;
  /** False where the history does not reach back to the begin of the window. */
  readonly whole: boolean;
}

/** What a window that ends now comes to; `ranks` are asked for at this moment. */
export function over(history: History, windowMs: number, { at: now, ranks }: Asked): Span {
  const inside = history.filter(({ at }) => now - at <= windowMs).map((one) => one.ranks);
  const first = history[0]?.at ?? now;
  return { least: Math.min(ranks, ...inside), most: Math.max(ranks, ...inside), whole: now - first >= windowMs };
}
