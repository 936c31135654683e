// Parameters, moments and gradients of units that one rank keeps: a range of the dense part, and experts in slots. What a rank owns is
// one of these, what it shadows for another rank is one more, with the same arithmetic.
import { AppError } from "../../../crds/common.ts";
import type { Interval } from "../../placement/training/lanes.ts";
import { createAdamW, type Optimizer, type StepNumbers } from "../adamw.ts";
import { movedTo, type Unit } from "../layout.ts";
import { firstHomes, ownedDense, type Shape, type StateUnit } from "./shape.ts";

/** Arrays of one expert or of a range of the dense part. */
export type Field = "p" | "m" | "v" | "g";

/** What is handed over of a unit. */
export const stateFields = ["p", "m", "v"] as const;

type Left = Readonly<Record<(typeof stateFields)[number], Float32Array>>;

const keyOf = (layer: number, expert: number): string => `${layer} ${expert}`;

export class UnitState {
  protected readonly shape: Shape;
  readonly #owned: Interval;
  readonly #arrays: Optimizer;
  /** Where an expert begins in the arrays. */
  readonly #slots = new Map<string, number>();
  readonly #free: number[] = [];
  /** Experts that are on their way to another rank, until all ranks have what comes to them. */
  readonly #left = new Map<string, Left>();

  /** With room for what `rank` owns of so many ranks. */
  constructor(shape: Shape, rank: number, ranks: number) {
    this.shape = shape;
    this.#owned = ownedDense(shape, rank);
    const own = this.#owned.to - this.#owned.from;
    const slots = firstHomes(shape, ranks)
      .flat()
      .filter((home) => home === rank).length;
    for (let slot = slots - 1; slot >= 0; slot--) this.#free.push(own + slot * shape.expertFloats);
    this.#arrays = createAdamW(own + slots * shape.expertFloats);
  }

  get stateBytes(): number {
    const { p, m, v, g } = this.#arrays;
    return [p, m, v, g].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** The dense floats that are kept here, by their place in the dense part. */
  get denseRange(): Interval {
    return this.#owned;
  }

  /** Kept dense floats of an array; the dense offset of the first is `denseRange`'s. */
  ownDense(field: Field): Float32Array {
    return this.#arrays[field].subarray(0, this.#owned.to - this.#owned.from);
  }

  owns(layer: number, expert: number): boolean {
    return this.#slots.has(keyOf(layer, expert));
  }

  /** Has room for what `home` owns, and for nothing else; what was here is no more. */
  place(homes: readonly (readonly number[])[], home: number): void {
    for (const slot of this.#slots.values()) this.#free.push(slot);
    this.#slots.clear();
    for (const [layer, row] of homes.entries()) for (const [expert, owner] of row.entries()) if (owner === home) this.take(layer, expert);
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

  /** Gives the expert's slot free; its state stays to be read until `dropLeft`. */
  leave(layer: number, expert: number): void {
    const slot = this.#slot(layer, expert);
    const copy = (field: Field): Float32Array => this.own(layer, expert, field).slice();
    this.#left.set(keyOf(layer, expert), { p: copy("p"), m: copy("m"), v: copy("v") });
    this.#free.push(slot);
    this.#slots.delete(keyOf(layer, expert));
  }

  dropLeft(): void {
    this.#left.clear();
  }

  holds(unit: StateUnit): boolean {
    if (unit.expert === undefined) return unit.from >= this.#owned.from && unit.to <= this.#owned.to;
    return this.owns(unit.layer, unit.expert) || this.#left.has(keyOf(unit.layer, unit.expert));
  }

  /** A unit's floats, which are here. */
  floats({ layer, expert, from, to }: StateUnit, field: (typeof stateFields)[number]): Float32Array {
    if (expert === undefined) return this.#arrays[field].subarray(from - this.#owned.from, to - this.#owned.from);
    return this.#left.get(keyOf(layer, expert))?.[field] ?? this.own(layer, expert, field);
  }

  floatsOf(layer: number, expert: number): number {
    return this.unit(layer, expert).to;
  }

  /** A kept expert's floats. */
  own(layer: number, expert: number, field: Field): Float32Array {
    const slot = this.#slot(layer, expert);
    return this.#arrays[field].subarray(slot, slot + this.unit(layer, expert).to);
  }

  /** Takes what is kept of the dense parameters for the state, once they were changed. */
  keepDense(dense: Float32Array): void {
    const own = this.ownDense("p");
    if (own.buffer !== dense.buffer) own.set(dense.subarray(this.#owned.from, this.#owned.to));
  }

  clearGradients(): void {
    this.#arrays.g.fill(0);
  }

  /** The sum of squares of kept dense gradients, a range of the dense part. */
  denseSquares(from: number, to: number): number {
    return this.#arrays.squares(from - this.#owned.from, to - this.#owned.from);
  }

  expertSquares(layer: number, expert: number): number {
    const slot = this.#slot(layer, expert);
    return this.#arrays.squares(slot, slot + this.unit(layer, expert).to);
  }

  /** One step of the optimizer for all that is kept. */
  update(decaying: StepNumbers): void {
    const plain = { ...decaying, decay: 0 };
    const numbers = (decays: boolean): StepNumbers => (decays ? decaying : plain);
    const { from: first, to: end } = this.#owned;
    for (const { parameters } of this.shape.dense)
      for (const { from, to, decays } of parameters) {
        const [begin, last] = [Math.max(from, first), Math.min(to, end)];
        if (begin < last) this.#arrays.step(begin - first, last - first, numbers(decays));
      }
    for (const [layer, units] of this.shape.experts.entries())
      for (const expert of units.keys()) {
        if (!this.owns(layer, expert)) continue;
        const { parameters } = movedTo(this.unit(layer, expert), this.#slot(layer, expert));
        for (const { from, to, decays } of parameters) this.#arrays.step(from, to, numbers(decays));
      }
  }

  protected unit(layer: number, expert: number): Unit {
    return this.shape.experts[layer]?.[expert] as Unit;
  }

  #slot(layer: number, expert: number): number {
    const slot = this.#slots.get(keyOf(layer, expert));
    if (slot === undefined) throw new Error(`expert ${expert} of layer ${layer} is not owned by this rank`);
    return slot;
  }
}
