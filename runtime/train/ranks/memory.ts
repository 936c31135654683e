// The memory of one rank: the dense part whole, parameters, moments and gradients of what it owns, and copies of other ranks' experts
// while they are needed. An expert that is neither owned nor copied is not there to be read.
import { AppError } from "../../../crds/common.ts";
import { createAdamW, type Optimizer, type StepNumbers } from "../adamw.ts";
import { movedTo, type Unit, viewsOf } from "../layout.ts";
import { firstHomes, ownedDense, type Shape } from "./shape.ts";

/** Arrays of one expert or of a range of the dense part. */
type Field = "p" | "m" | "v" | "g";

const keyOf = (layer: number, expert: number): string => `${layer} ${expert}`;

export class RankMemory {
  /** Parameters of the dense part; those of the state where all of it is owned. */
  readonly dense: Float32Array;
  readonly #shape: Shape;
  readonly #owned: { readonly from: number; readonly to: number };
  readonly #state: Optimizer;
  /** Where an owned expert begins in the arrays of the state. */
  readonly #slots = new Map<string, number>();
  readonly #free: number[] = [];
  readonly #copies = new Map<string, Float32Array>();
  #copyFloats = 0;
  #copyFloatsMost = 0;

  constructor(shape: Shape, rank: number, ranks: number) {
    this.#shape = shape;
    this.#owned = ownedDense(shape, rank);
    const own = this.#owned.to - this.#owned.from;
    const slots = firstHomes(shape, ranks)
      .flat()
      .filter((home) => home === rank).length;
    for (let slot = slots - 1; slot >= 0; slot--) this.#free.push(own + slot * shape.expertFloats);
    this.#state = createAdamW(own + slots * shape.expertFloats);
    this.dense = own === shape.denseFloats ? this.#state.p.subarray(0, own) : new Float32Array(shape.denseFloats);
  }

  /** Bytes of state and of the dense part, which are held all the time. */
  get stateBytes(): number {
    const { p, m, v, g } = this.#state;
    const arrays = this.dense.buffer === p.buffer ? [p, m, v, g] : [this.dense, p, m, v, g];
    return arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** Bytes of copies held at once, at most, since this was asked last. */
  takeCopyBytesMost(): number {
    const bytes = this.#copyFloatsMost * Float32Array.BYTES_PER_ELEMENT;
    this.#copyFloatsMost = this.#copyFloats;
    return bytes;
  }

  /** Owned dense floats of an array; the dense offset of the first is `ownedDense`'s. */
  ownDense(field: Field): Float32Array {
    return this.#state[field].subarray(0, this.#owned.to - this.#owned.from);
  }

  /** Takes what is owned of the dense parameters for the state, once they were changed. */
  keepDense(): void {
    if (this.dense.buffer !== this.#state.p.buffer) this.ownDense("p").set(this.dense.subarray(this.#owned.from, this.#owned.to));
  }

  clearGradients(): void {
    this.#state.g.fill(0);
  }

  owns(layer: number, expert: number): boolean {
    return this.#slots.has(keyOf(layer, expert));
  }

  take(layer: number, expert: number): void {
    const slot = this.#free.pop();
    if (slot === undefined)
      throw new AppError(
        `layer ${layer}: no room for expert ${expert} on its new rank; a planner has to keep the number of a rank's experts`,
        {
          code: "DoesNotFit",
          operation: "moving an expert",
        },
      );
    this.#slots.set(keyOf(layer, expert), slot);
  }

  release(layer: number, expert: number): void {
    this.#free.push(this.#slot(layer, expert));
    this.#slots.delete(keyOf(layer, expert));
  }

  floatsOf(layer: number, expert: number): number {
    return this.#unit(layer, expert).to;
  }

  /** An owned expert's floats. */
  own(layer: number, expert: number, field: Field): Float32Array {
    const slot = this.#slot(layer, expert);
    return this.#state[field].subarray(slot, slot + this.#unit(layer, expert).to);
  }

  addCopy(layer: number, expert: number): void {
    const floats = this.#unit(layer, expert).to;
    this.#copies.set(keyOf(layer, expert), new Float32Array(floats));
    this.#copyFloats += floats;
    this.#copyFloatsMost = Math.max(this.#copyFloatsMost, this.#copyFloats);
  }

  dropCopies(layer: number): void {
    for (const expert of (this.#shape.experts[layer] ?? []).keys()) {
      const copy = this.#copies.get(keyOf(layer, expert));
      if (copy === undefined) continue;
      this.#copyFloats -= copy.length;
      this.#copies.delete(keyOf(layer, expert));
    }
  }

  /** Parameters of an expert that is owned or copied. */
  parameters(layer: number, expert: number): Float32Array {
    if (this.owns(layer, expert)) return this.own(layer, expert, "p");
    const copy = this.#copies.get(keyOf(layer, expert));
    if (copy === undefined) throw new Error(`expert ${expert} of layer ${layer} is not on this rank`);
    return copy;
  }

  weights(layer: number, expert: number): Readonly<Record<string, Float32Array>> {
    return viewsOf(this.parameters(layer, expert), this.#unit(layer, expert));
  }

  /** The sum of squares of owned dense gradients, a range of the dense part. */
  denseSquares(from: number, to: number): number {
    return this.#state.squares(from - this.#owned.from, to - this.#owned.from);
  }

  expertSquares(layer: number, expert: number): number {
    const slot = this.#slot(layer, expert);
    return this.#state.squares(slot, slot + this.#unit(layer, expert).to);
  }

  /** One step of the optimizer for all that is owned. */
  update(decaying: StepNumbers): void {
    const plain = { ...decaying, decay: 0 };
    const numbers = (decays: boolean): StepNumbers => (decays ? decaying : plain);
    const { from: first, to: end } = this.#owned;
    for (const { parameters } of this.#shape.dense)
      for (const { from, to, decays } of parameters) {
        const [begin, last] = [Math.max(from, first), Math.min(to, end)];
        if (begin < last) this.#state.step(begin - first, last - first, numbers(decays));
      }
    for (const [layer, units] of this.#shape.experts.entries())
      for (const expert of units.keys()) {
        if (!this.owns(layer, expert)) continue;
        const { parameters } = movedTo(this.#unit(layer, expert), this.#slot(layer, expert));
        for (const { from, to, decays } of parameters) this.#state.step(from, to, numbers(decays));
      }
  }

  #unit(layer: number, expert: number): Unit {
    return this.#shape.experts[layer]?.[expert] as Unit;
  }

  #slot(layer: number, expert: number): number {
    const slot = this.#slots.get(keyOf(layer, expert));
    if (slot === undefined) throw new Error(`expert ${expert} of layer ${layer} is not owned by this rank`);
    return slot;
  }
}
