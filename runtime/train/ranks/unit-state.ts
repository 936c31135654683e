// Parameters, gradients and optimizer state of the units that one rank owns, or shadows for another rank: a range of the dense part,
// and experts in slots.
import { AppError } from "../../../crds/common.ts";
import { chunkIn, expertOf } from "../../placement/training/chunks.ts";
import type { Interval } from "../../placement/training/micro-batches.ts";
import { movedTo, type Unit } from "../model/layout.ts";
import type { StepFacts } from "../optimizers/optimizer.ts";
import type { OptimizerState, UpdateRange } from "../optimizers/state.ts";
import { ownedDense, type Shape, type StateRange } from "./model-shape.ts";

/** Arrays in memory; the optimizer's own may lie on disk and are read and put. */
export type Field = "p" | "g";

const keyOf = (layer: number, expert: number): string => `${layer} ${expert}`;

export class UnitState {
  protected readonly shape: Shape;
  readonly denseRange: Interval;
  readonly #state: OptimizerState;
  readonly #slots = new Map<string, number>();
  readonly #free: number[] = [];
  readonly #left = new Map<string, ReadonlyMap<string, Float32Array>>();

  /** `state` has as many floats as `ownedFloats` gives for `rank`. */
  constructor(shape: Shape, rank: number, state: OptimizerState) {
    this.shape = shape;
    this.denseRange = ownedDense(shape, rank);
    const own = this.denseRange.to - this.denseRange.from;
    const slots = Math.floor((state.p.length - own) / Math.max(1, shape.expertFloats));
    for (let slot = slots - 1; slot >= 0; slot--) this.#free.push(own + slot * shape.expertFloats);
    this.#state = state;
  }

  /** The arrays of a unit in the order of storage: parameters, then the optimizer's. */
  get arrays(): readonly string[] {
    return this.#state.arrays;
  }

  get stateBytes(): number {
    return this.#state.bytes;
  }

  /** The owned dense floats of an array; the first is at `denseRange`. */
  ownDense(field: Field): Float32Array {
    return this.#state[field].subarray(0, this.denseRange.to - this.denseRange.from);
  }

  owns(layer: number, expert: number): boolean {
    return this.#slots.has(keyOf(layer, expert));
  }

  /** Drops all state and makes space for what `primary` owns. */
  place(primaries: readonly (readonly number[])[], primary: number): void {
    for (const slot of this.#slots.values()) this.#free.push(slot);
    this.#slots.clear();
    for (const [layer, row] of primaries.entries())
      for (const [expert, owner] of row.entries()) if (owner === primary) this.take(layer, expert);
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

  /** Frees the expert's slot; its state stays readable until `dropLeft`. */
  async leave(layer: number, expert: number): Promise<void> {
    const unit = { layer, expert, from: 0, to: this.floatsOf(layer, expert) };
    const copies = new Map<string, Float32Array>();
    for (const name of this.arrays) copies.set(name, (await this.whole(unit, name)).slice());
    this.#left.set(keyOf(layer, expert), copies);
    this.#drop(layer, expert);
  }

  dropLeft(): void {
    this.#left.clear();
  }

  holds(unit: StateRange): boolean {
    if (unit.expert === undefined) return unit.from >= this.denseRange.from && unit.to <= this.denseRange.to;
    return this.owns(unit.layer, unit.expert) || this.#left.has(keyOf(unit.layer, unit.expert));
  }

  /** An array of a unit in pieces. Pieces in memory are views: read them before anything changes. */
  async *read(unit: StateRange, name: string): AsyncGenerator<Float32Array> {
    const left = unit.expert === undefined ? undefined : this.#left.get(keyOf(unit.layer, unit.expert))?.get(name);
    if (left !== undefined) {
      yield left;
      return;
    }
    const at = this.#at(unit);
    yield* this.#state.read(name, at, at + unit.to - unit.from);
  }

  async whole(unit: StateRange, name: string): Promise<Float32Array> {
    const floats = unit.to - unit.from;
    let found = new Float32Array();
    let at = 0;
    for await (const piece of this.read(unit, name)) {
      if (piece.length === floats) return piece;
      if (at === 0) found = new Float32Array(floats);
      found.set(piece, at);
      at += piece.length;
    }
    return found;
  }

  /** Stores an array of a unit. An expert whose array cannot be written counts as absent. */
  async put(unit: StateRange, name: string, values: Float32Array): Promise<void> {
    try {
      await this.#state.write(name, this.#at(unit), values);
    } catch (caught) {
      if (unit.expert !== undefined) this.#drop(unit.layer, unit.expert);
      throw caught;
    }
  }

  floatsOf(layer: number, expert: number): number {
    return this.unit(layer, expert).to;
  }

  own(layer: number, expert: number, field: Field): Float32Array {
    const slot = this.#slot(layer, expert);
    return this.#state[field].subarray(slot, slot + this.unit(layer, expert).to);
  }

  ownChunk(layer: number, chunk: number, field: Field): Float32Array {
    const { slices } = this.shape;
    return chunkIn(this.own(layer, expertOf(chunk, slices), field), chunk, slices);
  }

  keepDense(dense: Float32Array): void {
    const own = this.ownDense("p");
    if (own.buffer !== dense.buffer) own.set(dense.subarray(this.denseRange.from, this.denseRange.to));
  }

  /** Moves parameters by `scale` times the gradients; the returned function restores their bits. */
  perturb(scale: number): () => void {
    const { p, g } = this.#state;
    const before = p.slice();
    for (let i = 0; i < p.length; i++) p[i] = (p[i] as number) + scale * (g[i] as number);
    return () => p.set(before);
  }

  clearGradients(): void {
    this.#state.g.fill(0);
  }

  denseSquares(from: number, to: number): number {
    return this.#state.squares(from - this.denseRange.from, to - this.denseRange.from);
  }

  expertSquares(layer: number, expert: number): number {
    const slot = this.#slot(layer, expert);
    return this.#state.squares(slot, slot + this.unit(layer, expert).to);
  }

  async update(values: Readonly<Record<string, number>>, facts: Omit<StepFacts, "decays">): Promise<void> {
    const ranges: UpdateRange[] = [];
    const { from: first, to: end } = this.denseRange;
    for (const { parameters } of this.shape.dense)
      for (const { from, to, decays } of parameters) {
        const [begin, last] = [Math.max(from, first), Math.min(to, end)];
        if (begin < last) ranges.push({ from: begin - first, to: last - first, decays });
      }
    for (const [layer, units] of this.shape.experts.entries())
      for (const expert of units.keys()) {
        if (!this.owns(layer, expert)) continue;
        ranges.push(...movedTo(this.unit(layer, expert), this.#slot(layer, expert)).parameters);
      }
    await this.#state.update(ranges, values, facts);
  }

  close(): void {
    this.#state.close();
  }

  protected unit(layer: number, expert: number): Unit {
    return this.shape.experts[layer]?.[expert] as Unit;
  }

  #at({ layer, expert, from }: StateRange): number {
    return expert === undefined ? from - this.denseRange.from : this.#slot(layer, expert);
  }

  #drop(layer: number, expert: number): void {
    this.#free.push(this.#slot(layer, expert));
    this.#slots.delete(keyOf(layer, expert));
  }

  #slot(layer: number, expert: number): number {
    const slot = this.#slots.get(keyOf(layer, expert));
    if (slot === undefined) throw new Error(`expert ${expert} of layer ${layer} is not owned by this rank`);
    return slot;
  }
}
