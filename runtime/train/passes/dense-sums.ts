// Sums gradients of a dense unit over micro-batches in a tree, so that memory is for a few subtrees and the sum does not depend on the
// ranks.
import { addAll, exchange } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { type Interval, joinSubtree, type Subtree, subtreesOf } from "../../placement/training/micro-batches.ts";
import { ownedDense, type Shape } from "../ranks/model-shape.ts";
import type { RankMemory } from "../ranks/rank-memory.ts";
import { concatenated } from "./expert-rows.ts";

export class DenseSums {
  /** Backward adds a micro-batch's gradient here; zero between micro-batches. */
  readonly scratch: Float32Array;
  #nodes: Subtree<Float32Array>[] = [];

  constructor(floats: number) {
    this.scratch = new Float32Array(floats);
  }

  take(microBatch: number): void {
    joinSubtree(this.#nodes, { from: microBatch, size: 1, sum: this.scratch.slice() }, joined);
    this.scratch.fill(0);
  }

  /** The sums of the largest subtrees of this rank's micro-batches, in order. */
  takeNodes(): readonly Subtree<Float32Array>[] {
    const nodes = this.#nodes;
    this.#nodes = [];
    return nodes;
  }
}

function joined(left: Float32Array, right: Float32Array): Float32Array {
  addAll(left, [right]);
  return left;
}

/** A range of the dense part with its gradients; the head's in tensors of the embedding are a range of their own. */
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
  readonly microBatches: readonly (readonly number[])[];
}

/** The gradients of what each rank owns; overlapping ranges are added in order. */
export async function sumDense({ transport, stamp, memory, shape, ranges, microBatches }: DenseExchange): Promise<void> {
  const nodes = ranges.map(({ sums }) => sums.takeNodes());
  const parts = Array.from({ length: transport.ranks }, (_, owner) => {
    if (owner === transport.rank) return new Float32Array();
    const owned = ownedDense(shape, owner);
    return concatenated(ranges.flatMap((range, i) => (nodes[i] ?? []).map(({ sum }) => cutOf(range, sum, owned))));
  });
  const owned = ownedDense(shape, transport.rank);
  const cut = ranges.reduce((sum, range) => sum + cutOf(range, range.sums.scratch, owned).length, 0);
  const trees = microBatches.map((own) => subtreesOf(own).nodes);
  const lengthFrom = (rank: number): number => cut * (trees[rank]?.length ?? 0);
  const received = await exchange(transport, stamp, { what: "dense sums", layer: -1, lengthFrom }, parts);
  const g = memory.ownDense("g").fill(0);
  const at = received.map(() => 0);
  for (const [i, range] of ranges.entries()) {
    const [begin, end] = [Math.max(owned.from, range.from), Math.min(owned.to, range.from + range.sums.scratch.length)];
    if (begin >= end) continue;
    const found = (nodes[i] ?? []).map((node) => ({ ...node, sum: cutOf(range, node.sum, owned) }));
    for (const [rank, part] of received.entries())
      for (const { from, size } of rank === transport.rank ? [] : (trees[rank] ?? [])) {
        const first = at[rank] as number;
        at[rank] = first + end - begin;
        found.push({ from, size, sum: part.subarray(first, first + end - begin) });
      }
    const tree: Subtree<Float32Array>[] = [];
    for (const node of found.sort((a, b) => a.from - b.from)) joinSubtree(tree, node, joined);
    joined(g.subarray(begin - owned.from, end - owned.from), tree[0]?.sum as Float32Array);
  }
}

function cutOf({ from }: DenseRange, sum: Float32Array, owned: Interval): Float32Array {
  return sum.subarray(Math.max(0, owned.from - from), Math.max(0, Math.min(sum.length, owned.to - from)));
}
