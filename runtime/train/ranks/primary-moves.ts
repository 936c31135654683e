// Moves experts to new primaries and their shadows between two steps. Old owners keep the state until all ranks have theirs, so that a
// loss meanwhile loses nothing.
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { handover } from "../../placement/training/handover.ts";
import { carry } from "./carry.ts";
import { primariesOfUnits, type Shape, stateUnits } from "./model-shape.ts";
import type { RankStores } from "./rank-stores.ts";

type Primaries = readonly (readonly number[])[];

interface PrimaryMove {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly shape: Shape;
  readonly stores: RankStores;
  readonly from: Primaries;
  readonly to: Primaries;
}

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
