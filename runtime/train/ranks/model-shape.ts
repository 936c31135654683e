// The shape of a model as ranks share it: its dense units one after another, cut into pieces that each have one owner, and its experts
// by layer. Derived from the layout alone, so that all ranks have the same. Pure.
import { AppError } from "../../../crds/common.ts";
import { chunkOf, slicesPerExpert } from "../../placement/training/chunks.ts";
import type { Interval } from "../../placement/training/lanes.ts";
import { type Layout, movedTo, piecesOf, type Unit } from "../model/layout.ts";

interface DensePiece extends Interval {
  readonly owner: number;
}

export interface Shape {
  /** Embedding, layers, head, with ranges in the dense arrays of a rank. */
  readonly dense: readonly Unit[];
  readonly denseFloats: number;
  readonly pieces: readonly DensePiece[];
  /** experts[layer], for layers that have some none is empty; the layer's number counts all layers. */
  readonly experts: readonly (readonly Unit[])[];
  /** Floats of the largest expert. */
  readonly expertFloats: number;
  /** Slices of each expert. A rank has the state of whole experts, so that primaries of experts are primaries of chunks: one. */
  readonly slices: number;
}

/** Throws AppError `BadOption` for slices whose state ranks could not keep apart. */
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

/** The first piece of this owner or a later one: owners are in order, and pieces of a large model many. */
function firstOf(pieces: Shape["pieces"], owner: number): number {
  let [low, high] = [0, pieces.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if ((pieces[middle] as DensePiece).owner < owner) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Dense floats that a rank owns. */
export function ownedDense({ pieces }: Shape, rank: number): Interval {
  const [first, end] = [firstOf(pieces, rank), firstOf(pieces, rank + 1)];
  return first === end ? { from: 0, to: 0 } : { from: pieces[first]?.from ?? 0, to: pieces[end - 1]?.to ?? 0 };
}

/** Floats whose state a rank keeps: its part of the dense ones, then room for as many experts as it begins with. */
export function ownedFloats(shape: Shape, rank: number, ranks: number): number {
  const { from, to } = ownedDense(shape, rank);
  const slots = firstPrimaries(shape, ranks).flat();
  return to - from + slots.filter((primary) => primary === rank).length * shape.expertFloats;
}

/** Experts dealt to ranks in order, as expert parallelism has them. */
export function firstPrimaries({ experts }: Shape, ranks: number): number[][] {
  return experts.map((units) => units.map((_, expert) => Math.floor((expert * ranks) / units.length)));
}

/** A range of the dense part, or an expert: state of one owner. */
export interface StateRange extends Interval {
  /** -1 of the dense part. */
  readonly layer: number;
  readonly expert: number | undefined;
}

/** What is handed over as one: a piece of the dense part, or an expert. */
export interface StateUnit extends StateRange {
  /** As frames name it: an expert by the first of its chunks, a piece by its number. */
  readonly chunk: number;
}

/** Pieces, then experts, whatever the number of ranks: the order in which gradients are squared. */
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

/** The primary of each unit. */
export function primariesOfUnits(shape: Shape, primaries: readonly (readonly number[])[]): number[] {
  return [...shape.pieces.map(({ owner }) => owner), ...primaries.flat()];
}
