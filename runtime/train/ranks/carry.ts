// Moves units' state between ranks: parameters and optimizer arrays, each a frame, in an order equal on all ranks.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import type { Transfer } from "../../placement/training/handover.ts";
import type { StateUnit } from "./model-shape.ts";
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
