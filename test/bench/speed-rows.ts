// The figures that benches of the engine share, and the table of decode and prefill: rates of two engines, measured in turns, a row a case.

/** Tokens/s of each round, by the number of threads. */
export type Rates = ReadonlyMap<number, readonly number[]>;

/** What the machine allows. */
export interface Limits {
  readonly gigabytesPerSecond: number;
  /** Undefined where no loop of this processor's own is known. */
  readonly gigaflops: number | undefined;
}

/** What a token costs at least: bytes of weights read, multiplications and additions. */
export interface TokenCost {
  readonly bytes: number;
  readonly flops: number;
}

export interface Case {
  readonly name: string;
  readonly ours: Rates;
  /** Empty without the other engine. */
  readonly llama: Rates;
  readonly least: number;
  readonly cost: TokenCost;
}

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
};
export const round = (value: number, digits = 1): number => Number(value.toFixed(digits));

/** The number of threads with the highest median. */
export function best(rates: Rates): { readonly threads: number; readonly rates: readonly number[] } | undefined {
  const sorted = [...rates].toSorted(([, a], [, b]) => median(b) - median(a));
  const [found] = sorted;
  return found && { threads: found[0], rates: found[1] };
}

/** The median of the rounds' ratios: both values of a round were measured next to each other. */
export function ratioOf(ours: readonly number[], theirs: readonly number[]): number {
  return median(ours.map((value, i) => value / (theirs[i] ?? Number.NaN)).filter((ratio) => !Number.isNaN(ratio)));
}

/** Tokens/s while all of a batch decode, of the milliseconds at which each one's tokens came: from the moment the last one starts to the
 *  moment the first one ends. Of all the time, where they were never all at it. */
export function togetherRate(all: readonly (readonly number[])[]): number {
  const [starts, ends] = [all.map((at) => at[0] ?? 0), all.map((at) => at.at(-1) ?? 0)];
  const [from, to] = [Math.max(...starts), Math.min(...ends)];
  const [first, last] = to > from ? [from, to] : [Math.min(...starts), Math.max(...ends)];
  return (all.flat().filter((at) => at > first && at <= last).length * 1000) / Math.max(last - first, Number.EPSILON);
}

/** Milliseconds of one clock. */
export interface Period {
  readonly from: number;
  readonly to: number;
}

/** The gaps that touch none of the periods, and those that do. */
export function gapsBeside(at: readonly number[], periods: readonly Period[]): { readonly quiet: number[]; readonly disturbed: number[] } {
  const gaps = { quiet: [] as number[], disturbed: [] as number[] };
  for (const [i, to] of at.entries()) {
    const from = at[i - 1];
    if (from === undefined) continue;
    const touched = periods.some((period) => period.from < to && from < period.to);
    gaps[touched ? "disturbed" : "quiet"].push(to - from);
  }
  return gaps;
}

/** The value that 99 of 100 stay below. */
export const p99 = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;

const percent = (share: number): string => `${round(100 * share)}%`;

/** Ours and llama.cpp, each the median of the rounds at its best number of threads; the ratio is the median of the rounds' ratios. */
export function speedRow({ name, ours, llama, least, cost }: Case, limits: Limits) {
  const own = best(ours) ?? { threads: 0, rates: [] };
  const theirs = best(llama);
  const rate = median(own.rates);
  const ratio = theirs && ratioOf(own.rates, theirs.rates);
  return {
    case: name,
    tokensPerSecond: round(rate),
    threads: own.threads,
    llama: theirs ? round(median(theirs.rates)) : "-",
    llamaThreads: theirs?.threads ?? "-",
    ratio: ratio === undefined ? "-" : round(ratio, 2),
    least,
    ok: ratio === undefined ? "-" : ratio >= least,
    ofBandwidth: percent((rate * cost.bytes) / 1e9 / limits.gigabytesPerSecond),
    ofFlops: limits.gigaflops === undefined ? "-" : percent((rate * cost.flops) / 1e9 / limits.gigaflops),
  };
}

/** What is left beside a hog. */
const hogLeast = 0.9;

/** One row for each number of threads beside a hog, held against one thread alone without it. */
export function hogTable(name: string, alone: readonly number[], { ours, llama }: { readonly ours: Rates; readonly llama: Rates }) {
  return [...new Set([...ours.keys(), ...llama.keys()])].flatMap((threads) => {
    const own = ours.get(threads) ?? [...ours.values()].at(-1) ?? []; // a backend of one thread has no more
    const theirs = llama.get(threads);
    const ratio = ratioOf(own, alone);
    return {
      ...{ case: name, threads, tokensPerSecond: round(median(own)), alone: round(median(alone)), ratio: round(ratio, 2) },
      ...{ least: hogLeast, ok: ratio >= hogLeast, llama: theirs ? round(median(theirs)) : "-" },
    };
  });
}

/** The weights of a model, counted. */
export interface ModelSizes {
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  /** Values of the matrices of a layer's dense part, and of the head. */
  readonly attention: number;
  readonly head: number;
  readonly expert: number;
  /** Bytes of a value of the dense part, and of a whole expert. */
  readonly denseBytes: number;
  readonly expertBytes: number;
}

/**
 * What a token of a step with so many rows costs in products of weights. A step reads the dense part once, and of the experts as many as
 * its rows choose when they choose evenly. The head computes every row of a decode step, and of a prompt the last one alone, which is left
 * out; so are scores and sums of attention, which weigh little in short texts.
 */
export function tokenCost(sizes: ModelSizes, phase: "decode" | "prefill", rows: number): TokenCost {
  const { layers, experts, topK, attention, expert } = sizes;
  const head = phase === "decode" ? sizes.head : 0;
  const chosen = experts * (1 - (1 - topK / experts) ** rows);
  const bytes = (layers * attention + head) * sizes.denseBytes + layers * chosen * sizes.expertBytes;
  return { bytes: bytes / rows, flops: 2 * (layers * (attention + topK * expert) + head) };
}
