// Experts that get another home: their parameters and moments go from the old one to the new one between two steps.
import { exchange } from "../../comm/collectives.ts";
import type { Stamp, Transport } from "../../comm/transport.ts";
import { concatenated } from "./expert-rows.ts";
import type { RankMemory } from "./memory.ts";

type Homes = readonly (readonly number[])[];

interface HomeMove {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly memory: RankMemory;
  readonly from: Homes;
  readonly to: Homes;
}

export async function moveHomes({ transport, stamp, memory, from, to }: HomeMove): Promise<void> {
  const { rank, ranks } = transport;
  const moves = from.flatMap((row, layer) =>
    row.flatMap((old, expert) => {
      const next = to[layer]?.[expert] as number;
      return old === next ? [] : [{ layer, expert, old, next }];
    }),
  );
  if (moves.length === 0) return;
  const parts: Float32Array[] = [];
  for (let receiver = 0; receiver < ranks; receiver++) {
    const leaving: Float32Array[] = [];
    for (const { layer, expert, old, next } of moves)
      if (old === rank && next === receiver) for await (const piece of memory.movable(layer, expert)) leaving.push(piece);
    parts.push(concatenated(leaving));
  }
  const lengthFrom = (sender: number): number =>
    moves.reduce(
      (sum, { layer, expert, old, next }) => (old === sender && next === rank ? sum + memory.movableFloats(layer, expert) : sum),
      0,
    );
  const received = await exchange(transport, stamp, { what: "homes", layer: -1, lengthFrom }, parts);
  for (const { layer, expert, old } of moves) if (old === rank) memory.release(layer, expert);
  const at = received.map(() => 0);
  for (const { layer, expert, old, next } of moves) {
    if (next !== rank) continue;
    memory.take(layer, expert);
    const begin = at[old] as number;
    at[old] = begin + memory.movableFloats(layer, expert);
    await memory.putMovable(layer, expert, (received[old] as Float32Array).subarray(begin, at[old]));
  }
}
