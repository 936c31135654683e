// Row blocks: an expert's rows of one micro-batch go to one of its hosts. Each host takes contiguous micro-batches, so that a chain of
// hosts adds the gradient in micro-batch order.
import type { DispatchName } from "../../../crds/names.ts";
import { splitLayer } from "../split.ts";
import { type Interval, ranksOfMicroBatches } from "./micro-batches.ts";

export interface BlockProblem {
  /** rows[micro-batch][expert] */
  readonly rows: readonly ArrayLike<number>[];
  readonly hosts: readonly (readonly number[])[];
  readonly intervals: readonly Interval[];
  readonly speed: Float64Array;
}

interface Run extends Interval {
  readonly host: number;
}

/** runs[expert], in order; they leave out outer micro-batches without rows. */
export type Blocks = readonly (readonly Run[])[];

type Dispatch = (problem: BlockProblem) => Run[][];

const dispatches: Readonly<Record<DispatchName, Dispatch>> = { Exact: exact, LocalFirst: localFirst };

export function dealBlocks(name: DispatchName, problem: BlockProblem): Blocks {
  return dispatches[name](problem).map((runs, expert) => runs.flatMap((run) => trimmed(problem.rows, expert, run)));
}

export function rowsOfRanks(rows: BlockProblem["rows"], blocks: Blocks, ranks: number): Float64Array {
  const load = new Float64Array(ranks);
  for (const [expert, runs] of blocks.entries())
    for (const { host, from, to } of runs) load[host] = (load[host] as number) + rowsOf(rows, expert, { from, to });
  return load;
}

function rowsOf(rows: BlockProblem["rows"], expert: number, { from, to }: Interval): number {
  let sum = 0;
  for (let microBatch = from; microBatch < to; microBatch++) sum += rows[microBatch]?.[expert] as number;
  return sum;
}

function trimmed(rows: BlockProblem["rows"], expert: number, { host, from, to }: Run): Run[] {
  let [first, end] = [from, to];
  while (first < end && rows[first]?.[expert] === 0) first++;
  while (end > first && rows[end - 1]?.[expert] === 0) end--;
  return first < end ? [{ host, from: first, to: end }] : [];
}

function cutNear(rows: BlockProblem["rows"], expert: number, wanted: number): number {
  let [before, microBatch] = [0, 0];
  for (; microBatch < rows.length; microBatch++) {
    const next = before + (rows[microBatch]?.[expert] as number);
    if (next >= wanted) return next - wanted < wanted - before ? microBatch + 1 : microBatch;
    before = next;
  }
  return microBatch;
}

const passesMax = 16;

/** Cuts at balanced quotas, then moves cuts while that evens the load. */
function exact({ rows, hosts, speed }: BlockProblem): Run[][] {
  const demand = hosts.map((_, expert) => rowsOf(rows, expert, { from: 0, to: rows.length }));
  const { rows: quotas } = splitLayer({ demand, hosts, speed });
  const load = new Float64Array(speed.length);
  const dealt = hosts.map((row, expert): Run[] => {
    const order = row.map((host, i) => ({ host, quota: quotas[expert]?.[i] as number })).sort((a, b) => a.host - b.host);
    let [from, wanted] = [0, 0];
    return order.map(({ host, quota }, i) => {
      wanted += quota;
      const to = i === order.length - 1 ? rows.length : Math.max(from, cutNear(rows, expert, wanted));
      const run = { host, from, to };
      load[host] = (load[host] as number) + rowsOf(rows, expert, run);
      from = to;
      return run;
    });
  });
  for (let pass = 0, moved = true; moved && pass < passesMax; pass++) {
    moved = false;
    for (const [expert, runs] of dealt.entries())
      for (let cut = 0; cut + 1 < runs.length; cut++) moved = moveCut({ rows, expert, runs, cut }, load, speed) || moved;
  }
  return dealt;
}

interface Cut {
  readonly rows: BlockProblem["rows"];
  readonly expert: number;
  readonly runs: Run[];
  readonly cut: number;
}

/** Moves a cut while the sum of load^2/speed of its two hosts falls. */
function moveCut({ rows, expert, runs, cut }: Cut, load: Float64Array, speed: Float64Array): boolean {
  let moved = false;
  for (const step of [-1, 1]) {
    for (;;) {
      const [left, right] = [runs[cut] as Run, runs[cut + 1] as Run];
      const to = left.to + step;
      if (to < left.from || to > right.to) break;
      const change = step * (rows[Math.min(left.to, to)]?.[expert] as number);
      const [a, b] = [load[left.host] as number, load[right.host] as number];
      const [fast, other] = [speed[left.host] as number, speed[right.host] as number];
      const gain = a ** 2 / fast + b ** 2 / other - (a + change) ** 2 / fast - (b - change) ** 2 / other;
      if (!(gain > 0)) break;
      runs[cut] = { ...left, to };
      runs[cut + 1] = { ...right, from: to };
      load[left.host] = a + change;
      load[right.host] = b - change;
      moved = true;
    }
  }
  return moved;
}

/** Rows stay local if the expert is there; those between two hosts are halved, those after the last go to it. */
function localFirst({ rows, hosts, intervals }: BlockProblem): Run[][] {
  const rankOf = ranksOfMicroBatches(intervals);
  return hosts.map((row, expert) => {
    const order = row.toSorted((a, b) => a - b);
    let from = 0;
    return order.map((host, i) => {
      const next = order[i + 1];
      let to = rows.length;
      if (next !== undefined) {
        const gap = { from: rankOf.lastIndexOf(host) + 1, to: rankOf.indexOf(next) };
        const half = rowsOf(rows, expert, { from: 0, to: gap.from }) + rowsOf(rows, expert, gap) / 2;
        to = Math.min(gap.to, Math.max(gap.from, cutNear(rows, expert, half)));
      }
      const run = { host, from, to };
      from = to;
      return run;
    });
  });
}
