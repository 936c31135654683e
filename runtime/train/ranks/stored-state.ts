// The part of a model that a rank holds between steps, by the layout's units: filling parameters, writing checkpoints and their
// exchanges. A dense unit of several owners is written by the owner of its first piece.
import { exchange, gatherAll } from "../../net/collectives/collectives.ts";
import type { Payload, Stamp, Transport } from "../../net/collectives/transport.ts";
import type { Interval } from "../../placement/training/micro-batches.ts";
import type { Layout, Unit } from "../model/layout.ts";
import type { CheckpointState } from "../model/training-checkpoint.ts";
import { ownedDense, type Shape, type StateRange } from "./model-shape.ts";
import type { RankStores } from "./rank-stores.ts";

interface StateOptions {
  readonly layout: Layout;
  readonly shape: Shape;
  readonly stores: RankStores;
  readonly transport: Transport;
  primaries(): readonly (readonly number[])[];
  stamp(step: number): Stamp;
  loaded(step: number): void;
}

export class StoredState implements CheckpointState {
  readonly #options: StateOptions;

  constructor(options: StateOptions) {
    this.#options = options;
    options.stores.place(options.primaries());
  }

  /** Arrays stored per unit: parameters, then the optimizer's state. */
  get stored(): number {
    return this.#options.stores.memory.arrays.length;
  }

  get rank(): number {
    return this.#options.transport.rank;
  }

  /** This rank's array for a unit's parameters, or undefined. Call `filled` once all are filled in. */
  parameters(part: number, index: number): Float32Array | undefined {
    const { stores, shape } = this.#options;
    const unit = shape.dense[part];
    if (index === 0) return unit && stores.memory.dense.subarray(unit.from, unit.to);
    return stores.all.find((store) => store.owns(part - 1, index - 1))?.own(part - 1, index - 1, "p");
  }

  filled(): void {
    this.#options.stores.keepDense();
  }

  /** Takes the parameters of step 0 from an array in the layout's order, and initial optimizer state. */
  load(parameters: Float32Array): void {
    this.#eachUnit((part, index, { from, to }) => this.parameters(part, index)?.set(parameters.subarray(from, to)));
    this.filled();
    this.#options.loaded(0);
  }

  /** Writes this rank's owned parameters or gradients into such an array. */
  save(into: Float32Array, field: "p" | "g" = "p"): void {
    const { stores, shape, transport } = this.#options;
    const { memory } = stores;
    const own = ownedDense(shape, transport.rank);
    this.#eachUnit((part, index, { from }) => {
      const unit = shape.dense[part] as Unit;
      const [begin, end] = [Math.max(own.from, unit.from), Math.min(own.to, unit.to)];
      if (index > 0 && memory.owns(part - 1, index - 1)) into.set(memory.own(part - 1, index - 1, field), from);
      else if (index === 0 && begin < end)
        into.set(memory.ownDense(field).subarray(begin - own.from, end - own.from), from + begin - unit.from);
    });
  }

  writes(part: number, index: number): boolean {
    return this.#writerOf(part, index) === this.rank;
  }

  async *pieces(step: number, part: number, index: number): AsyncGenerator<Float32Array> {
    const { stores, transport, shape } = this.#options;
    const { memory } = stores;
    if (index > 0) {
      for (const name of memory.arrays) yield* memory.read(this.#expert(part, index), name);
      return;
    }
    const unit = shape.dense[part] as Unit;
    yield memory.dense.subarray(unit.from, unit.to);
    for (const [chunk, name] of this.#kept.entries())
      for (let rank = 0; rank < transport.ranks; rank++) {
        const length = lengthIn(unit, ownedDense(shape, rank));
        if (length === 0) continue;
        const wanted = { what: "state", layer: part, chunk, piece: 0, length };
        if (rank === transport.rank) yield* memory.read(this.#ownIn(unit), name);
        else yield (await transport.receive(rank, this.#options.stamp(step), wanted)) as Float32Array;
      }
  }

  async give(step: number, part: number, index: number): Promise<void> {
    const { stores, transport, shape, stamp } = this.#options;
    const unit = shape.dense[part] as Unit;
    if (index > 0 || lengthIn(unit, ownedDense(shape, transport.rank)) === 0) return;
    for (const [chunk, name] of this.#kept.entries()) {
      const frame = { what: "state", layer: part, chunk, piece: 0 };
      await transport.send(this.#writerOf(part, index), stamp(step), frame, await stores.memory.whole(this.#ownIn(unit), name));
    }
  }

  wants(part: number, index: number): boolean {
    return this.parameters(part, index) !== undefined;
  }

  async take(part: number, index: number, values: Float32Array): Promise<void> {
    const { stores, shape } = this.#options;
    const floats = values.length / this.stored;
    this.parameters(part, index)?.set(values.subarray(0, floats));
    for (const [i, name] of this.#kept.entries()) {
      const found = values.subarray((1 + i) * floats, (2 + i) * floats);
      for (const store of stores.all) {
        if (index > 0) {
          if (store.owns(part - 1, index - 1)) await store.put(this.#expert(part, index), name, found);
          continue;
        }
        const unit = shape.dense[part] as Unit;
        const own = denseIn(unit, store.denseRange);
        if (own.from < own.to) await store.put(own, name, found.subarray(own.from - unit.from, own.to - unit.from));
      }
    }
    if (index === 0) this.filled();
  }

  async meet(step: number, what: string): Promise<void> {
    await this.gather(step, what, new Int32Array(), () => 0);
  }

  gather<T extends Payload>(step: number, what: string, own: T, lengthFrom: (rank: number) => number): Promise<T[]> {
    const { transport, stamp } = this.#options;
    return gatherAll(transport, stamp(step), { what, layer: -1, lengthFrom }, own);
  }

  async fromFirst(step: number, what: string, own: Float64Array): Promise<Float64Array> {
    const { transport, stamp } = this.#options;
    const parts = Array.from({ length: transport.ranks }, () => (transport.rank === 0 ? own : own.subarray(0, 0)));
    const lengthFrom = (rank: number): number => (rank === 0 ? own.length : 0);
    return (await exchange(transport, stamp(step), { what, layer: -1, lengthFrom }, parts))[0] as Float64Array;
  }

  #writerOf(part: number, index: number): number {
    const { shape, primaries } = this.#options;
    if (index > 0) return primaries()[part - 1]?.[index - 1] as number;
    const first = shape.dense[part]?.from;
    return shape.pieces.find(({ from }) => from === first)?.owner ?? 0;
  }

  get #kept(): readonly string[] {
    return this.#options.stores.memory.arrays.slice(1);
  }

  #expert(part: number, index: number): StateRange {
    const [layer, expert] = [part - 1, index - 1];
    return { layer, expert, from: 0, to: this.#options.stores.memory.floatsOf(layer, expert) };
  }

  #ownIn(unit: Unit): StateRange {
    return denseIn(unit, this.#options.stores.memory.denseRange);
  }

  #eachUnit(run: (part: number, index: number, unit: Unit) => void): void {
    for (const [part, { units }] of this.#options.layout.parts.entries())
      for (const [index, unit] of units.entries()) run(part, index, unit);
  }
}

const denseIn = (unit: Unit, { from, to }: Interval): StateRange => ({
  layer: -1,
  expert: undefined,
  from: Math.max(from, unit.from),
  to: Math.min(to, unit.to),
});

const lengthIn = ({ from, to }: Unit, own: { readonly from: number; readonly to: number }): number =>
  Math.max(0, Math.min(to, own.to) - Math.max(from, own.from));
