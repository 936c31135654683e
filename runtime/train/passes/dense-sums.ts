// Gradients of a dense unit: a micro-batch's are taken from a scratch array and joined in the tree over micro-batches, so that memory is for some
// subtrees and not for all micro-batches, and the sum is the same however micro-batches are dealt to ranks.
import { addAll } from "../../net/collectives/collectives.ts";
import { joinSubtree, type Subtree } from "../../placement/training/lanes.ts";

export class DenseSums {
  /** Where backward adds a micro-batch's gradient; zero between micro-batches. */
  readonly scratch: Float32Array;
  #nodes: Subtree<Float32Array>[] = [];

  constructor(floats: number) {
    this.scratch = new Float32Array(floats);
  }

  /** Takes what backward added for a micro-batch; micro-batches come in order. */
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

/** The sum of two nodes, in the left one's memory. */
export function joined(left: Float32Array, right: Float32Array): Float32Array {
  addAll(left, [right]);
  return left;
}
