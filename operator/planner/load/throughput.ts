// The measured relative speed of each rank. The cost of a batch, an expert and a row is fitted for all ranks together: DECISIONS.md 9.

/** Expert work of one rank. A batch's x is (1, experts run in it, rows). */
export interface Work {
  readonly amount: Vector;
  readonly micros: number;
  /** Sums over batches of x x' / w and x t / w, with t in microseconds: least squares with weights 1 / w. */
  readonly squares: Matrix;
  readonly times: Vector;
}

export interface MeasuredSpeed {
  /** Natural logarithm of the speed over the median rank's. */
  readonly log: number;
  readonly error: number;
  readonly windows: number;
}

/** The discount per window for speeds; half of a speed is from the last 7. */
const speedDiscount = 0.9;
/** The discount for costs, which belong to the model; half is from the last 34. */
const costDiscount = 0.98;
/** Less work than 0.1 s is added to the next window. */
const microsMin = 100_000;
const rounds = 12;

interface Rank {
  pending: Work;
  squares: Matrix;
  times: Vector;
  amount: Vector;
  micros: number;
  weight: number;
  windows: number;
  log: number;
  variance: number;
}

export class Throughput {
  readonly #ranks = new Map<string, Rank>();

  add(key: string, work: Work): void {
    // Work with missing parts is ignored: one batch leaves no sum at zero.
    if (![work.micros, ...work.amount, ...work.squares, ...work.times].every((sum) => sum > 0)) return;
    const rank = this.#ranks.get(key) ?? freshRank();
    this.#ranks.set(key, rank);
    rank.pending = sumOf(rank.pending, work, 1);
  }

  drop(): void {
    for (const rank of this.#ranks.values()) rank.pending = nothing;
  }

  /** Ends a window of these ranks and forgets others. True when some rank was measured. */
  close(keys: readonly string[]): boolean {
    const there = new Set(keys);
    for (const key of this.#ranks.keys()) if (!there.has(key)) this.#ranks.delete(key);
    const measured = [...this.#ranks.values()].filter(({ pending }) => pending.micros >= microsMin);
    if (measured.length === 0) return false;
    const counted = measured.map((rank) => ({ rank, work: count(rank) }));
    const { costs, common } = fit([...this.#ranks.values()].filter(({ windows }) => windows > 0));
    const found = counted.map(({ rank, work }) => ({ rank, off: Math.log(dot(costs, work.amount) / work.micros) - common - rank.log }));
    // A slowdown of all ranks at once shows nothing about single ranks.
    const shared = median(found.map(({ off }) => off));
    for (const { rank, off } of found)
      rank.variance += ((off - shared) ** 2 - rank.variance) * Math.max(1 - speedDiscount, 1 / rank.windows);
    return true;
  }

  of(key: string): MeasuredSpeed | undefined {
    const rank = this.#ranks.get(key);
    if (!rank || rank.windows === 0) return undefined;
    return { log: rank.log, error: Math.sqrt(rank.variance / rank.weight), windows: rank.windows };
  }
}

const nothing: Work = { amount: [0, 0, 0], micros: 0, squares: [0, 0, 0, 0, 0, 0, 0, 0, 0], times: [0, 0, 0] };

function freshRank(): Rank {
  return { ...nothing, pending: nothing, weight: 0, windows: 0, log: 0, variance: 0 };
}

function count(rank: Rank): Work {
  const { pending } = rank;
  const { amount, micros } = sumOf(rank, pending, speedDiscount);
  const { squares, times } = sumOf(rank, pending, costDiscount);
  rank.amount = amount;
  rank.micros = micros;
  rank.squares = squares;
  rank.times = times;
  rank.weight = rank.weight * speedDiscount + 1;
  rank.windows += 1;
  rank.pending = nothing;
  return pending;
}

function sumOf(a: Work, b: Work, discount: number): Work {
  const add = (x: readonly number[], y: readonly number[]): number[] => x.map((value, i) => discount * value + (y[i] ?? 0));
  return {
    amount: add(a.amount, b.amount),
    micros: discount * a.micros + b.micros,
    squares: add(a.squares, b.squares),
    times: add(a.times, b.times),
  };
}

/** Microseconds that a batch, an expert and a row take at the common speed; it sets every rank's `log`. */
function fit(ranks: readonly Rank[]): { costs: Vector; common: number } {
  let costs: Vector = nothing.amount;
  let logs = ranks.map(() => 0);
  let common = 0;
  const squares = ranks.reduce<Matrix>((sum, rank) => sum.map((value, i) => value + (rank.squares[i] ?? 0)), nothing.squares);
  for (let round = 0; round < rounds; round++) {
    const times = ranks.reduce<Vector>(
      (sum, rank, r) => sum.map((value, i) => value + (rank.times[i] ?? 0) * Math.exp((logs[r] ?? 0) - common)),
      [0, 0, 0],
    );
    costs = nonNegative(squares, times);
    logs = ranks.map((rank) => Math.log(dot(costs, rank.amount) / rank.micros));
    common = median(logs);
  }
  ranks.forEach((rank, r) => {
    rank.log = (logs[r] ?? 0) - common;
  });
  return { costs, common };
}

function dot(a: Vector, b: Vector): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? upper) + upper) / 2;
}

type Vector = readonly number[];
/** A symmetric 3 x 3 matrix, by rows. */
type Matrix = readonly number[];

const subsets: readonly (readonly number[])[] = [[0, 1, 2], [1, 2], [0, 2], [0, 1], [2], [1], [0]];
/** The ridge as a part of the diagonal: unknowns that always come together share their cost. */
const ridge = 1e-9;

/** The c >= 0 that minimises c' A c - 2 b' c; zeros where nothing is known. */
export function nonNegative(squares: Matrix, sides: Vector): Vector {
  const scale = [0, 1, 2].map((i) => Math.sqrt(squares[4 * i] ?? 0));
  const unit = (i: number): number => (scale[i] ?? 0) || 1;
  const a = squares.map((value, at) => value / unit(Math.floor(at / 3)) / unit(at % 3) + (at % 4 === 0 ? ridge : 0));
  const b = sides.map((value, i) => value / unit(i));
  let best: Vector = [0, 0, 0];
  let least = 0;
  for (const subset of subsets) {
    const x = solve(a, b, subset);
    if (x.some((value) => !(value >= 0))) continue;
    // At the minimum over a subset the objective is -b' x.
    const objective = -x.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
    if (objective >= least - 1e-12 * Math.abs(least)) continue;
    least = objective;
    best = x;
  }
  return best.map((value, i) => value / unit(i));
}

function solve(a: Matrix, b: Vector, subset: readonly number[]): number[] {
  const n = subset.length;
  const rows = subset.map((i) => [...subset.map((j) => a[3 * i + j] ?? 0), b[i] ?? 0]);
  for (let p = 0; p < n; p++) {
    const pivot = rows[p] as number[];
    for (const row of rows) {
      if (row === pivot) continue;
      const factor = (row[p] as number) / (pivot[p] as number);
      for (let j = p; j <= n; j++) row[j] = (row[j] as number) - factor * (pivot[j] as number);
    }
  }
  const x = [0, 0, 0];
  subset.forEach((i, p) => {
    x[i] = (rows[p]?.[n] ?? 0) / (rows[p]?.[p] ?? 1);
  });
  return x;
}
