// A rank's place in a world: its transports, and what all ranks know of each. A run without one is a world of one rank.
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Transport } from "../../net/collectives/transport.ts";
import type { RankState } from "./rank-state.ts";
import type { RankFacts } from "./step-plan.ts";

/** Worlds that meet after local steps, with ranks in order, world by world. */
export interface Group {
  readonly transport: Transport;
  readonly firsts: readonly number[];
  readonly world: number;
  /** Worlds that share this machine's memory. */
  readonly here: number;
}

export interface RankContext {
  readonly transport: Transport;
  /** The run that world numbers belong to, so that one world owns the output; unset: a new run each time. */
  readonly run?: string | undefined;
  readonly world: number;
  /** The facts of this world's ranks; ranks of the transport beyond them leave and hand over state. */
  readonly facts: RankFacts;
  readonly rankState?: RankState | undefined;
  readonly group?: Group | undefined;
}

export const aloneContext = (): RankContext => ({ transport: new Loopback(1).transport(0), world: 1, facts: { node: [0], speed: [1] } });
