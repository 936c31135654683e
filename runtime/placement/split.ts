// Splits an expert's rows among its replicas by speed-aware, deterministic water-filling. For given hosts, the weights minimise the
// highest normalised rank load of a layer.
import { weightsTotal } from "../../crds/plan.ts";

const splitSweeps = 48;
const settledPart = 5e-4;
const relaxation = 1.5;

export interface Ranks {
  readonly load: Float64Array;
  readonly speed: Float64Array;
}

/**
 * Adds `amount` to `load` over `hosts` so that they end at one level load/speed where possible, and writes each host's part to `out`.
 * Hosts of speed 0 get nothing unless all are.
 */
export function pour(amount: number, hosts: readonly number[], ranks: Ranks, out: number[]): void {
  const { load, speed } = ranks;
  const n = hosts.length;
  if (n === 1) {
    const only = hosts[0] as number;
    load[only] = (load[only] as number) + amount;
    out[0] = amount;
    return;
  }
  if (n === 0) return;
  if (n === 2) {
    pourTwo(amount, hosts, ranks, out);
    return;
  }
  const level = waterLevel(amount, hosts, load, speed);
  let given = 0;
  let top = 0;
  for (let i = 0; i < n; i++) {
    const g = hosts[i] as number;
    const part = Math.max(0, level * (speed[g] as number) - (load[g] as number));
    out[i] = part;
    given += part;
    if (part > (out[top] as number)) top = i;
  }
  out[top] = (out[top] as number) + amount - given; // One host takes the rounding, so that sums are exact.
  for (let i = 0; i < n; i++) load[hosts[i] as number] = (load[hosts[i] as number] as number) + (out[i] as number);
}

function pourTwo(amount: number, hosts: readonly number[], { load, speed }: Ranks, out: number[]): void {
  const a = hosts[0] as number;
  const b = hosts[1] as number;
  const all = amount + (load[a] as number) + (load[b] as number);
  const first = Math.min(amount, Math.max(0, levelOfTwo(all, load[a] as number, speed[a] as number, speed[b] as number)));
  out[0] = first;
  out[1] = amount - first;
  load[a] = (load[a] as number) + first;
  load[b] = (load[b] as number) + amount - first;
}

function levelOfTwo(all: number, load: number, speed: number, otherSpeed: number): number {
  const both = speed + otherSpeed;
  return both > 0 ? (all * speed) / both - load : Number.POSITIVE_INFINITY;
}

/** The level L with sum over hosts of max(0, L * speed - load) = amount. */
function waterLevel(amount: number, hosts: readonly number[], load: Float64Array, speed: Float64Array): number {
  let level = Number.POSITIVE_INFINITY;
  for (let counted = hosts.length + 1; ; ) {
    let filled = amount;
    let width = 0;
    let under = 0;
    for (let i = 0; i < hosts.length; i++) {
      const g = hosts[i] as number;
      const s = speed[g] as number;
      if (s <= 0 || (load[g] as number) >= level * s) continue;
      filled += load[g] as number;
      width += s;
      under++;
    }
    // The number of hosts below the level only falls, so rounding cannot loop.
    if (under === 0 || under >= counted) return width > 0 ? filled / width : Number.isFinite(level) ? level : 0;
    counted = under;
    level = filled / width;
  }
}

/** One layer: `demand[e]` rows, `hosts[e]` rank indexes, `speed[g]` relative speed. */
export interface SplitProblem {
  readonly demand: ArrayLike<number>;
  readonly hosts: readonly (readonly number[])[];
  readonly speed: Float64Array;
}

export interface Split {
  /** Rows of expert e for hosts[e][i]; they sum to demand[e]. */
  readonly rows: number[][];
  readonly load: Float64Array;
}

/** Gauss-Seidel water-filling. It minimises sum load^2/speed, and so the maximum as well. */
export function splitLayer(problem: SplitProblem, sweeps = splitSweeps): Split {
  const { demand, hosts, speed } = problem;
  const load = new Float64Array(speed.length);
  const rows: number[][] = [];
  const replicated: number[] = [];
  let total = 0;
  for (let e = 0; e < hosts.length; e++) {
    const row = hosts[e] as readonly number[];
    const amount = demand[e] as number;
    total += amount;
    if (row.length === 1) {
      const only = row[0] as number;
      load[only] = (load[only] as number) + amount;
      rows.push([amount]);
      continue;
    }
    rows.push(new Array<number>(row.length).fill(0));
    if (row.length > 1) replicated.push(e);
  }
  replicated.sort((a, b) => (demand[b] as number) - (demand[a] as number) || a - b);
  const ranks: Ranks = { load, speed };
  for (const e of replicated) pour(demand[e] as number, hosts[e] as readonly number[], ranks, rows[e] as number[]);
  const settled = (total / Math.max(1, speed.length)) * settledPart;
  for (let s = 1; s < sweeps && sweep(problem, replicated, rows, ranks) > settled; s++);
  return { rows, load };
}

function sweep(problem: SplitProblem, replicated: readonly number[], rows: number[][], ranks: Ranks): number {
  const { load } = ranks;
  let largest = 0;
  const was: number[] = [];
  for (const e of replicated) {
    const row = problem.hosts[e] as readonly number[];
    const mine = rows[e] as number[];
    if (row.length === 2) {
      largest = Math.max(largest, levelTwo(problem.demand[e] as number, row, mine, ranks));
      continue;
    }
    for (let i = 0; i < row.length; i++) {
      const part = mine[i] as number;
      was[i] = part;
      load[row[i] as number] = (load[row[i] as number] as number) - part;
    }
    pour(problem.demand[e] as number, row, ranks, mine);
    overshoot(row, was, mine, load);
    for (let i = 0; i < row.length; i++) largest = Math.max(largest, Math.abs((mine[i] as number) - (was[i] as number)));
  }
  return largest;
}

function levelTwo(amount: number, row: readonly number[], mine: number[], { load, speed }: Ranks): number {
  const a = row[0] as number;
  const b = row[1] as number;
  const before = mine[0] as number;
  const la = (load[a] as number) - before;
  const lb = (load[b] as number) - (mine[1] as number);
  const target = Math.min(amount, Math.max(0, levelOfTwo(amount + la + lb, la, speed[a] as number, speed[b] as number)));
  const after = Math.min(amount, Math.max(0, before + relaxation * (target - before)));
  mine[0] = after;
  mine[1] = amount - after;
  load[a] = la + after;
  load[b] = lb + amount - after;
  return Math.abs(after - before);
}

/** Over-relaxes from what it `was`, while no host's rows become negative; the sum stays. */
function overshoot(row: readonly number[], was: readonly number[], mine: number[], load: Float64Array): void {
  let further = relaxation - 1;
  for (let i = 0; i < row.length; i++) {
    const step = (mine[i] as number) - (was[i] as number);
    if (step < 0 && -step * further > (mine[i] as number)) further = (mine[i] as number) / -step;
  }
  if (further <= 0) return;
  for (let i = 0; i < row.length; i++) {
    const more = ((mine[i] as number) - (was[i] as number)) * further;
    mine[i] = (mine[i] as number) + more;
    load[row[i] as number] = (load[row[i] as number] as number) + more;
  }
}

export function splitEqually(problem: SplitProblem): Split {
  const load = new Float64Array(problem.speed.length);
  const rows = problem.hosts.map((row, e) => row.map(() => (problem.demand[e] as number) / row.length));
  addRows(problem.hosts, rows, load);
  return { rows, load };
}

function addRows(hosts: readonly (readonly number[])[], rows: readonly (readonly number[])[], load: Float64Array): void {
  hosts.forEach((row, e) => {
    row.forEach((g, i) => {
      load[g] = (load[g] as number) + (rows[e]?.[i] ?? 0);
    });
  });
}

export function loadByWeights(
  demand: ArrayLike<number>,
  hosts: readonly (readonly number[])[],
  weights: readonly (readonly number[])[],
  ranks: number,
): Float64Array {
  const load = new Float64Array(ranks);
  hosts.forEach((row, e) => {
    const part = weights[e];
    for (let i = 0; i < row.length; i++) {
      const g = row[i] as number;
      load[g] = (load[g] as number) + ((demand[e] as number) * (part?.[i] ?? 0)) / weightsTotal;
    }
  });
  return load;
}

/** Integers that sum to `total`, proportional to `parts`, by largest remainder; ties to the lower index. All zero: equal. */
export function quotas(parts: readonly number[], total = weightsTotal): number[] {
  if (parts.length === 1) return [total];
  const sum = parts.reduce((a, b) => a + b, 0);
  const exact = parts.map((part) => (sum > 0 ? (part / sum) * total : total / parts.length));
  const whole = exact.map(Math.floor);
  let left = total - whole.reduce((a, b) => a + b, 0);
  const order = exact.map((value, i) => ({ i, rest: value - Math.floor(value) })).sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of order) {
    if (left-- <= 0) break;
    whole[i] = (whole[i] as number) + 1;
  }
  return whole;
}
