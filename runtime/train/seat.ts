// A rank's place in a world of training: how it reaches the others, and what all know of each. A run without one has a world to itself.
import { Loopback } from "../comm/loopback.ts";
import type { Transport } from "../comm/transport.ts";
import type { RankFacts } from "./ranks/plan.ts";

export interface Seat {
  readonly transport: Transport;
  /** The membership, which a change of ranks counts up. */
  readonly world: number;
  readonly facts: RankFacts;
}

export const aloneSeat = (): Seat => ({ transport: new Loopback(1).transport(0), world: 1, facts: { node: [0], speed: [1] } });
