// The micro-batches of each rank, and the binary tree in which sums over them are taken. The tree depends on micro-batches alone, so
// that ranks change no bits.
import { AppError } from "../../../crds/common.ts";

export interface Interval {
  readonly from: number;
  readonly to: number;
}

/** A node of the tree with its sum: `size` micro-batches, a power of two, from a multiple of it. */
export interface Subtree<T> {
  readonly from: number;
  readonly size: number;
  readonly sum: T;
}

function refuse(reason: string): never {
  throw new AppError(reason, { code: "BadOption", operation: "dealing micro-batches to ranks" });
}

/**
 * The micro-batches of each rank: in order, in proportion to its speed, at least one. Throws AppError `BadOption` for more ranks than
 * micro-batches and for invalid speeds.
 */
export function microBatchIntervals(microBatches: number, speed: ArrayLike<number>): Interval[] {
  const ranks = speed.length;
  if (ranks > microBatches)
    refuse(`${ranks} ranks have ${microBatches} micro-batches; give each rank one at least, by more micro-batches or fewer ranks`);
  const slow = Array.from(speed).findIndex((value) => !(value > 0 && Number.isFinite(value)));
  if (slow >= 0) refuse(`the speed of rank ${slow} is ${speed[slow]}; give a number above 0, 1 where ranks are alike`);
  const total = Array.from(speed).reduce((a, b) => a + b, 0);
  const exact = Array.from(speed, (value) => ((microBatches - ranks) * value) / total);
  const count = exact.map((value) => 1 + Math.floor(value));
  const rest = exact.map((value, rank) => ({ rank, rest: value - Math.floor(value) }));
  rest.sort((a, b) => b.rest - a.rest || a.rank - b.rank);
  let left = microBatches - count.reduce((a, b) => a + b, 0);
  for (const { rank } of rest) if (left-- > 0) count[rank] = (count[rank] as number) + 1;
  let at = 0;
  return count.map((width) => {
    const from = at;
    at += width;
    return { from, to: at };
  });
}

export const intervalLength = ({ from, to }: Interval = { from: 0, to: 0 }): number => to - from;

export function ranksOfMicroBatches(intervals: readonly Interval[]): number[] {
  return intervals.flatMap(({ from, to }, rank) => new Array<number>(to - from).fill(rank));
}

/**
 * The largest subtrees of these ascending micro-batches, and the most that are held at once while they are joined: 2 log2(micro-batches) for a
 * contiguous range.
 */
export function subtreesOf(microBatches: Iterable<number>): {
  readonly nodes: readonly Omit<Subtree<unknown>, "sum">[];
  readonly most: number;
} {
  const nodes: Subtree<undefined>[] = [];
  let most = 0;
  for (const microBatch of microBatches) {
    most = Math.max(most, nodes.length + 1);
    joinSubtree(nodes, { from: microBatch, size: 1, sum: undefined }, () => undefined);
  }
  return { nodes, most };
}

/** The micro-batches of an interval in each accumulation step: `atOnce` micro-batches of all ranks at once. */
export function microBatchesIn({ from, to }: Interval, atOnce: number, microBatches: number): number[] {
  const found: number[] = [];
  for (let first = 0; first < microBatches; first += atOnce)
    for (let microBatch = first + from; microBatch < Math.min(microBatches, first + to); microBatch++) found.push(microBatch);
  return found;
}

const areHalves = (left: Subtree<unknown>, right: Subtree<unknown>): boolean =>
  left.size === right.size && left.from % (2 * left.size) === 0 && left.from + left.size === right.from;

/** Adds a subtree; two halves of a node become that node. `add` may sum into the left one. */
export function joinSubtree<T>(before: Subtree<T>[], next: Subtree<T>, add: (left: T, right: T) => T): void {
  let node = next;
  for (let left = before.at(-1); left !== undefined && areHalves(left, node); left = before.at(-1)) {
    before.pop();
    node = { from: left.from, size: 2 * left.size, sum: add(left.sum, node.sum) };
  }
  before.push(node);
}
