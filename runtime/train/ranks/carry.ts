// Moves units' state between ranks: parameters and optimizer arrays, each a frame, in an order equal on all ranks.

import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { handover, type Transfer } from "../../placement/training/handover.ts";
import { primariesOfUnits, type Shape, type StateUnit, stateUnits } from "./model-shape.ts";
import type { RankStores } from "./rank-stores.ts";
import type { UnitState } from "./unit-state.ts";

export interface Carrying {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly what: string;
  readonly arrays: readonly string[];
  readonly units: readonly StateUnit[];
  readonly transfers: readonly Transfer[];
  /** The store that sends the unit. */
  from(unit: StateUnit): UnitState;
  /** The store that receives the unit; called when all of it is here. */
  to(unit: StateUnit, number: number): UnitState;
}

export async function carry(carrying: Carrying): Promise<void> {
  const { transport, stamp, what, arrays, units, transfers } = carrying;
  const { rank } = transport;
  for (const { unit: number, from, to } of transfers) {
    if (from !== rank && to !== rank) continue;
    const unit = units[number] as StateUnit;
    const source = from === rank ? carrying.from(unit) : undefined;
    const found: Float32Array[] = [];
    for (const [piece, array] of arrays.entries()) {
      const name = { what, layer: unit.layer, chunk: unit.chunk, piece };
      const floats =
        (await source?.whole(unit, array)) ??
        ((await transport.receive(from, stamp, {
          what,
          layer: name.layer,
          chunk: name.chunk,
          piece,
          length: unit.to - unit.from,
        })) as Float32Array);
      if (to === rank) found.push(floats);
      else await transport.send(to, stamp, name, floats);
    }
    if (to !== rank) continue;
    const goal = carrying.to(unit, number);
    for (const [i, array] of arrays.entries()) await goal.put(unit, array, found[i] as Float32Array);
  }
}

type Primaries = readonly (readonly number[])[];

interface PrimaryMove {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly shape: Shape;
  readonly stores: RankStores;
  readonly from: Primaries;
  readonly to: Primaries;
}

/**
 * Moves experts to new primaries and their shadows between two steps. Old owners keep the state until all ranks have theirs, so that a
 * loss meanwhile loses nothing.
 */
export async function movePrimaries({ transport, stamp, shape, stores, from, to }: PrimaryMove): Promise<void> {
  const { rank, ranks } = transport;
  const units = stateUnits(shape);
  const [before, after] = [primariesOfUnits(shape, from), primariesOfUnits(shape, to)];
  const moves = new Set([...units.keys()].filter((unit) => before[unit] !== after[unit]));
  if (moves.size === 0) return;
  const moving = (primaries: readonly number[]): number[][] =>
    primaries.map((primary, unit) => (moves.has(unit) ? stores.holders(primary) : []));
  const [old, wanted] = [moving(before), moving(after)];
  const held = Array.from({ length: ranks }, (_, holder) => new Set([...units.keys()].filter((unit) => old[unit]?.includes(holder))));
  const floats = units.map(({ from: begin, to: end }) => end - begin);
  for (const [unit, { layer, expert }] of units.entries())
    if (expert !== undefined && old[unit]?.includes(rank)) await stores.of(before[unit] as number).leave(layer, expert);
  await carry({
    transport,
    stamp,
    what: "primaries",
    arrays: stores.memory.arrays,
    units,
    transfers: handover({ held, wanted, floats }),
    from: (unit) => stores.all.find((store) => store.holds(unit)) ?? stores.memory,
    to: ({ layer, expert }, unit) => {
      const store = stores.of(after[unit] as number);
      if (expert !== undefined) store.take(layer, expert);
      return store;
    },
  });
  await gatherAll(transport, stamp, { what: "primaries moved", layer: -1, lengthFrom: () => 0 }, new Int32Array());
  for (const store of stores.all) store.dropLeft();
}
