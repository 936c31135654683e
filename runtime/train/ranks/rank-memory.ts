// The memory of one rank: the whole dense part, the state of what it owns, and replicas of other ranks' experts while needed.
import { viewsOf } from "../model/layout.ts";
import type { OptimizerState } from "../optimizers/state.ts";
import type { Shape } from "./model-shape.ts";
import { UnitState } from "./unit-state.ts";

const keyOf = (layer: number, expert: number): string => `${layer} ${expert}`;

export class RankMemory extends UnitState {
  /** The dense parameters; an alias of the state where all is owned. */
  readonly dense: Float32Array;
  readonly #copies = new Map<string, Float32Array>();
  #copyFloats = 0;
  #copyFloatsMost = 0;

  constructor(shape: Shape, rank: number, state: OptimizerState) {
    super(shape, rank, state);
    const own = this.ownDense("p");
    this.dense = own.length === shape.denseFloats ? own : new Float32Array(shape.denseFloats);
  }

  override get stateBytes(): number {
    return super.stateBytes + (this.dense.buffer === this.ownDense("p").buffer ? 0 : this.dense.byteLength);
  }

  /** The caller gathers other ranks' dense parameters afterwards; they are restored with the rest. */
  override perturb(scale: number): () => void {
    const before = this.dense.buffer === this.ownDense("p").buffer ? undefined : this.dense.slice();
    const restore = super.perturb(scale);
    return () => {
      restore();
      if (before !== undefined) this.dense.set(before);
    };
  }

  takeReplicaBytesMost(): number {
    const bytes = this.#copyFloatsMost * Float32Array.BYTES_PER_ELEMENT;
    this.#copyFloatsMost = this.#copyFloats;
    return bytes;
  }

  addReplica(layer: number, expert: number): void {
    const floats = this.unit(layer, expert).to;
    this.#copies.set(keyOf(layer, expert), new Float32Array(floats));
    this.#copyFloats += floats;
    this.#copyFloatsMost = Math.max(this.#copyFloatsMost, this.#copyFloats);
  }

  dropReplicas(layer: number): void {
    for (const expert of (this.shape.experts[layer] ?? []).keys()) {
      const copy = this.#copies.get(keyOf(layer, expert));
      if (copy === undefined) continue;
      this.#copyFloats -= copy.length;
      this.#copies.delete(keyOf(layer, expert));
    }
  }

  parameters(layer: number, expert: number): Float32Array {
    if (this.owns(layer, expert)) return this.own(layer, expert, "p");
    const copy = this.#copies.get(keyOf(layer, expert));
    if (copy === undefined) throw new Error(`expert ${expert} of layer ${layer} is not on this rank`);
    return copy;
  }

  weights(layer: number, expert: number): Readonly<Record<string, Float32Array>> {
    return viewsOf(this.parameters(layer, expert), this.unit(layer, expert));
  }
}
