// A rank's place in a world of training: how it reaches the others, and what all know of each. A run without one has a world to itself.
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Transport } from "../../net/collectives/transport.ts";
import type { RankState } from "./rank-state.ts";
import type { RankFacts } from "./step-plan.ts";

/** Worlds that meet after local steps, as a rank of one knows them. Their ranks are in order, world by world. */
export interface Group {
  /** To all ranks of all worlds. */
  readonly transport: Transport;
  /** The first rank of each world. */
  readonly firsts: readonly number[];
  /** The world of this rank. */
  readonly world: number;
  /** Worlds that share this machine's memory. */
  readonly here: number;
}

export interface RankContext {
  readonly transport: Transport;
  /** Whose worlds are counted, so that one of them has the output; unset: a run of its own each time. */
  readonly run?: string | undefined;
  /** The membership, which a change of ranks counts up. */
  readonly world: number;
  /** Of the ranks of this world; those that a transport has beyond them leave, and hand over what they have. */
  readonly facts: RankFacts;
  /** What this rank has of the worlds before; unset: nothing. */
  readonly rankState?: RankState | undefined;
  /** The worlds that this one meets after its local steps; unset: there are no others. */
  readonly group?: Group | undefined;
}

export const aloneContext = (): RankContext => ({ transport: new Loopback(1).transport(0), world: 1, facts: { node: [0], speed: [1] } });
