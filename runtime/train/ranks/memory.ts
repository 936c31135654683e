// The memory of one rank: the dense part whole, parameters, optimizer state and gradients of what it owns, and copies of other ranks'
// experts while they are needed. An expert that is neither owned nor copied is not there to be read.
import { AppError } from "../../../crds/common.ts";
import { movedTo, type Unit, viewsOf } from "../layout.ts";
import type { StepFacts } from "../optimizers/optimizer.ts";
import type { OptimizerState, UpdateRange } from "../optimizers/state.ts";
import { ownedDense, type Shape } from "./shape.ts";

/** Arrays of one expert or of a range of the dense part; the optimizer's own may lie on disk, and are read and written. */
type Field = "p" | "g";

const keyOf = (layer: number, expert: number): string => `${layer} ${expert}`;

export class RankMemory {
  /** Parameters of the dense part; those of the state where all of it is owned. */
  readonly dense: Float32Array;
  readonly #shape: Shape;
  readonly #owned: { readonly from: number; readonly to: number };
  readonly #state: OptimizerState;
  /** Where an owned expert begins in the arrays of the state. */
  readonly #slots = new Map<string, number>();
  readonly #free: number[] = [];
  readonly #copies = new Map<string, Float32Array>();
  #copyFloats = 0;
  #copyFloatsMost = 0;

  /** `state`: of as many floats as `ownedFloats` says. */
  constructor(shape: Shape, rank: number, state: OptimizerState) {
    this.#shape = shape;
    this.#owned = ownedDense(shape, rank);
    const own = this.#owned.to - this.#owned.from;
    const slots = Math.floor((state.p.length - own) / Math.max(1, shape.expertFloats));
    for (let slot = slots - 1; slot >= 0; slot--) this.#free.push(own + slot * shape.expertFloats);
    this.#state = state;
    this.dense = own === shape.denseFloats ? this.#state.p.subarray(0, own) : new Float32Array(shape.denseFloats);
  }

  /** Bytes of state and of the dense part, which are held all the time. */
  get stateBytes(): number {
    const { p, bytes } = this.#state;
    return this.dense.buffer === p.buffer ? bytes : bytes + this.dense.byteLength;
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

  /** Arrays that the optimizer keeps of each parameter, in the order in which they are stored and sent. */
  get stateNames(): readonly string[] {
    return this.#state.arrays.slice(1);
  }

  /** Owned state of a range of the dense part, in pieces. */
  denseState(name: string, from: number, to: number): AsyncIterable<Float32Array> {
    return this.#state.read(name, from - this.#owned.from, to - this.#owned.from);
  }

  putDenseState(name: string, from: number, values: Float32Array): Promise<void> {
    return this.#state.write(name, from - this.#owned.from, values);
  }

  /** What moves with an owned expert and is stored of it: its parameters and state, one behind another, in pieces. */
  async *movable(layer: number, expert: number): AsyncGenerator<Float32Array> {
    const slot = this.#slot(layer, expert);
    for (const name of this.#state.arrays) yield* this.#state.read(name, slot, slot + this.floatsOf(layer, expert));
  }

  /** Floats of `movable`. */
  movableFloats(layer: number, expert: number): number {
    return this.#state.arrays.length * this.floatsOf(layer, expert);
  }

  /** Takes what was `movable` for an expert that is owned by now. */
  async putMovable(layer: number, expert: number, values: Float32Array): Promise<void> {
    const [slot, floats] = [this.#slot(layer, expert), this.floatsOf(layer, expert)];
    for (const [i, name] of this.#state.arrays.entries())
      await this.#state.write(name, slot, values.subarray(i * floats, (i + 1) * floats));
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
  async update(values: Readonly<Record<string, number>>, facts: Omit<StepFacts, "decays">): Promise<void> {
    const ranges: UpdateRange[] = [];
    const { from: first, to: end } = this.#owned;
    for (const { parameters } of this.#shape.dense)
      for (const { from, to, decays } of parameters) {
        const [begin, last] = [Math.max(from, first), Math.min(to, end)];
        if (begin < last) ranges.push({ from: begin - first, to: last - first, decays });
      }
    for (const [layer, units] of this.#shape.experts.entries())
      for (const expert of units.keys()) {
        if (!this.owns(layer, expert)) continue;
        ranges.push(...movedTo(this.#unit(layer, expert), this.#slot(layer, expert)).parameters);
      }
    await this.#state.update(ranges, values, facts);
  }

  close(): Promise<void> {
    return this.#state.close();
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
