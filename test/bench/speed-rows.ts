// The table of decode and prefill: rates of two engines, each at several thread counts, measured in turns, as one row a case. Pure.

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

export interface SpeedRow {
  readonly case: string;
  /** Ours at its best number of threads: the median of the rounds. */
  readonly tokensPerSecond: number;
  readonly threads: number;
  readonly llama: number | "-";
  readonly llamaThreads: number | "-";
  /** Ours to llama.cpp's, the median of the rounds, each at its best number of threads. */
  readonly ratio: number | "-";
  readonly least: number;
  readonly ok: boolean | "-";
  readonly ofBandwidth: string;
  readonly ofFlops: string;
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

const percent = (share: number): string => `${round(100 * share)}%`;

export function speedRow({ name, ours, llama, least, cost }: Case, limits: Limits): SpeedRow {
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

/** A step of so many rows reads the dense part once, and of the experts as many as its rows choose when they choose evenly. */
export function tokenCost(sizes: ModelSizes, rows: number): TokenCost {
  const { layers, experts, topK, attention, head, expert } = sizes;
  const chosen = experts * (1 - (1 - topK / experts) ** rows);
  const bytes = (layers * attention + head) * sizes.denseBytes + layers * chosen * sizes.expertBytes;
  return { bytes: bytes / rows, flops: 2 * (layers * (attention + topK * expert) + head) };
}
