// Sums gradients of a dense unit over micro-batches in a tree, so that memory is for a few subtrees and the sum does not depend on the
// ranks.
import { addAll } from "../../net/collectives/collectives.ts";
import { joinSubtree, type Subtree } from "../../placement/training/micro-batches.ts";

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

export function joined(left: Float32Array, right: Float32Array): Float32Array {
  addAll(left, [right]);
  return left;
}
