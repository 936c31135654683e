// Gradients of the dense part over ranks: each owner gets all ranks' subtrees of its floats, and joins them.
import { exchange } from "../../comm/collectives.ts";
import type { Stamp, Transport } from "../../comm/transport.ts";
import { type Interval, joinSubtree, type Subtree, subtreesOf } from "../../placement/training/lanes.ts";
import { type DenseSums, joined } from "../dense-sums.ts";
import { concatenated } from "./expert-rows.ts";
import type { RankMemory } from "./memory.ts";
import { ownedDense, type Shape } from "./shape.ts";

/** One range of the dense part with sums of its gradients: the head's in tensors of the embedding are a range of their own. */
export interface DenseRange {
  readonly from: number;
  readonly sums: DenseSums;
}

interface DenseExchange {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly memory: RankMemory;
  readonly shape: Shape;
  readonly ranges: readonly DenseRange[];
  readonly intervals: readonly Interval[];
}

/** The gradients of what each rank owns: all ranks' subtrees of it, joined to the sum over lanes; ranges that meet are added in order. */
export async function sumDense({ transport, stamp, memory, shape, ranges, intervals }: DenseExchange): Promise<void> {
  const nodes = ranges.map(({ sums }) => sums.takeNodes());
  const parts = Array.from({ length: transport.ranks }, (_, owner) => {
    const owned = ownedDense(shape, owner);
    return concatenated(ranges.flatMap((range, i) => (nodes[i] ?? []).map(({ sum }) => cutOf(range, sum, owned))));
  });
  const owned = ownedDense(shape, transport.rank);
  const cut = ranges.reduce((sum, range) => sum + cutOf(range, range.sums.scratch, owned).length, 0);
  const lengthFrom = (rank: number): number => cut * subtreesOf(intervals[rank] as Interval).length;
  const received = await exchange(transport, stamp, { what: "dense sums", layer: -1, lengthFrom }, parts);
  const g = memory.ownDense("g").fill(0);
  const at = received.map(() => 0);
  for (const { from: first, sums } of ranges) {
    const [begin, end] = [Math.max(owned.from, first), Math.min(owned.to, first + sums.scratch.length)];
    if (begin >= end) continue;
    const tree: Subtree<Float32Array>[] = [];
    for (const [rank, part] of received.entries())
      for (const node of subtreesOf(intervals[rank] as Interval)) {
        const from = at[rank] as number;
        at[rank] = from + end - begin;
        joinSubtree(tree, { ...node, sum: part.subarray(from, from + end - begin) }, joined);
      }
    joined(g.subarray(begin - owned.from, end - owned.from), tree[0]?.sum as Float32Array);
  }
}

function cutOf({ from }: DenseRange, sum: Float32Array, owned: Interval): Float32Array {
  return sum.subarray(Math.max(0, owned.from - from), Math.max(0, Math.min(sum.length, owned.to - from)));
}
