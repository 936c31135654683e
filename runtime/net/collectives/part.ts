// A subset of a transport's ranks as a transport, renumbered from 0.
import type { Transport } from "./transport.ts";

export function partOf(transport: Transport, from: number, ranks: number): Transport {
  return {
    rank: transport.rank - from,
    ranks,
    send: (to, stamp, name, payload) => transport.send(from + to, stamp, name, payload),
    receive: (rank, stamp, wanted) => transport.receive(from + rank, stamp, wanted),
  };
}
