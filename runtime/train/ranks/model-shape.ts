// The shape of a model as ranks share it, derived from the layout: dense units cut into pieces with one owner each, and experts by
// layer.
import { AppError } from "../../../crds/common.ts";
import { chunkOf, slicesPerExpert } from "../../placement/training/chunks.ts";
import type { Interval } from "../../placement/training/micro-batches.ts";
import { type Layout, movedTo, piecesOf, type Unit } from "../model/layout.ts";

interface DensePiece extends Interval {
  readonly owner: number;
}

export interface Shape {
  readonly dense: readonly Unit[];
  readonly denseFloats: number;
  readonly pieces: readonly DensePiece[];
  /** experts[layer]; empty for layers without experts. */
  readonly experts: readonly (readonly Unit[])[];
  readonly expertFloats: number;
  /** Slices of each expert, now one: ranks store whole experts. */
  readonly slices: number;
}

export function shapeOf({ parts }: Layout, ranks: number, slices = slicesPerExpert): Shape {
  if (slices !== 1)
    throw new AppError(`slicesPerExpert is ${slices}; it must be 1, since ranks keep, store and hand over the state of whole experts`, {
      code: "BadOption",
      operation: "sharing a model among ranks",
    });
  let at = 0;
  const dense = parts.map(({ units }): Unit => {
    const unit = movedTo(units[0] as Unit, at);
    at = unit.to;
    return unit;
  });
  const cuts = dense.flatMap(piecesOf);
  const pieces = cuts.map(({ from, to }, i): DensePiece => ({ from, to, owner: Math.floor((i * ranks) / cuts.length) }));
  const experts = parts.slice(1, -1).map(({ units }) => units.slice(1).map((unit) => movedTo(unit, 0)));
  const expertFloats = experts.flat().reduce((most, { to }) => Math.max(most, to), 0);
  return { dense, denseFloats: at, pieces, experts, expertFloats, slices };
}

function firstOf(pieces: Shape["pieces"], owner: number): number {
  let [low, high] = [0, pieces.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if ((pieces[middle] as DensePiece).owner < owner) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function ownedDense({ pieces }: Shape, rank: number): Interval {
  const [first, end] = [firstOf(pieces, rank), firstOf(pieces, rank + 1)];
  return first === end ? { from: 0, to: 0 } : { from: pieces[first]?.from ?? 0, to: pieces[end - 1]?.to ?? 0 };
}

/** Floats whose state a rank stores: its dense part and its first experts. */
export function ownedFloats(shape: Shape, rank: number, ranks: number): number {
  const { from, to } = ownedDense(shape, rank);
  const slots = firstPrimaries(shape, ranks).flat();
  return to - from + slots.filter((primary) => primary === rank).length * shape.expertFloats;
}

/** Experts dealt to ranks in order, as in expert parallelism. */
export function firstPrimaries({ experts }: Shape, ranks: number): number[][] {
  return experts.map((units) => units.map((_, expert) => Math.floor((expert * ranks) / units.length)));
}

export interface StateRange extends Interval {
  /** -1 for the dense part. */
  readonly layer: number;
  readonly expert: number | undefined;
}

export interface StateUnit extends StateRange {
  /** The name in frames: the first chunk of an expert, or a piece's number. */
  readonly chunk: number;
}

/** Pieces, then experts, for any number of ranks: the order in which gradients are squared. */
export function stateUnits({ pieces, experts, slices }: Shape): StateUnit[] {
  const dense = pieces.map(({ from, to }, chunk): StateUnit => ({ layer: -1, expert: undefined, from, to, chunk }));
  const unitOf = (layer: number, expert: number, to: number): StateUnit => ({
    layer,
    expert,
    from: 0,
    to,
    chunk: chunkOf(expert, 0, slices),
  });
  return [...dense, ...experts.flatMap((units, layer) => units.map(({ to }, expert) => unitOf(layer, expert, to)))];
}

export function primariesOfUnits(shape: Shape, primaries: readonly (readonly number[])[]): number[] {
  return [...shape.pieces.map(({ owner }) => owner), ...primaries.flat()];
}
