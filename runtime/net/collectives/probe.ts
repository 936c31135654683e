// Measures the connections between ranks: every rank sends to its next at once.
import { performance } from "node:perf_hooks";
import { gatherAll } from "./collectives.ts";
import type { Stamp, Transport } from "./transport.ts";

/** 4 MiB. */
const floatsMax = 2 ** 20;
/** The first round of a connection is slow. */
const rounds = 2;

export interface Way {
  readonly seconds: number;
  /** The busy part of this thread. */
  readonly busy: number;
}

/** Undefined without other ranks. */
export async function measureWay(transport: Transport, stamp: Stamp, floats: number): Promise<Way> {
  const { rank, ranks } = transport;
  let way: Way = { seconds: 0, busy: 0 };
  if (ranks === 1) return way;
  const part = new Float32Array(Math.min(floatsMax, Math.max(1, floats)));
  const [next, before] = [(rank + 1) % ranks, (rank + ranks - 1) % ranks];
  // Otherwise a late rank would count as transfer time.
  await gatherAll(transport, stamp, { what: "way begins", layer: -1, lengthFrom: () => 0 }, new Int32Array());
  for (let round = 0; round < rounds; round++) {
    const name = { what: "way", layer: -1, chunk: 0, piece: round };
    const [begun, busy] = [performance.now(), performance.eventLoopUtilization()];
    await Promise.all([
      transport.send(next, stamp, name, part),
      transport.receive(before, stamp, { what: "way", layer: -1, chunk: 0, piece: round, length: part.length }),
    ]);
    const scale = floats / part.length / 1000;
    way = { seconds: scale * (performance.now() - begun), busy: scale * performance.eventLoopUtilization(busy).active };
  }
  return way;
}
