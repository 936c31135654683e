// The contract of transports (test/contract/transport.ts) for each of them.

import { transportContract } from "../../../test/contract/transport.ts";
import { WireRanks } from "../../../test/kit/training/wire-ranks.ts";
import { Loopback } from "./loopback.ts";

transportContract({
  name: "loopback",
  open: async (ranks, frameMs) => new Loopback(ranks, frameMs),
  endOf: (hub, _rank, error) => hub.end(error),
  close: async () => {},
});

transportContract({
  name: "wire",
  open: (ranks, frameMs) => WireRanks.open(ranks, { limits: frameMs === undefined ? {} : { frameMs } }),
  endOf: (hub, rank, error) => (hub as WireRanks).transport(rank).end(error),
  close: (hub) => (hub as WireRanks).close(),
});
