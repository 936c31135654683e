// The vocabulary of the plan protocol: its tasks, the events that it is told, the actions that it asks of the shell, and its outcome.
// Types and limits only; the state machine is protocol.ts.

import type { LayerPlacement } from "../../../crds/plan.ts";
import type { ProtocolRules } from "./protocol-rules.ts";

export const layerPhases = ["waiting", "preparing", "committing", "releasing", "free", "aborted"] as const;
export type LayerPhase = (typeof layerPhases)[number];

/** One layer that the plan changes. */
export interface LayerTask {
  readonly placement: LayerPlacement;
  /** Resident bytes that each rank newly hosts; `outgoing` has those that it gives up. */
  readonly incoming: ReadonlyMap<number, number>;
  readonly outgoing: ReadonlyMap<number, number>;
  /** True when somebody may have committed it, so that it can only go forward. */
  readonly committedBefore: boolean;
}

export interface RunOptions {
  readonly epoch: number;
  /** The layers that change, in the order in which they fit into memory. */
  readonly tasks: readonly LayerTask[];
  /** The live ranks, each with the bootId of its process. */
  readonly members: ReadonlyMap<number, string>;
  /** Resident bytes that each rank may hold, staging slot included; `used` has those that the parent plan puts there. */
  readonly budget: ReadonlyMap<number, number>;
  readonly used: ReadonlyMap<number, number>;
  readonly now: number;
  readonly limits: RunLimits;
  /** Unset: those of protocol-rules.ts. */
  readonly rules?: Partial<ProtocolRules> | undefined;
}

export interface RunLimits {
  readonly layersInFlight: number;
  /** Time from the start after which a layer that is not ready is rolled back. */
  readonly prepareMs: number;
  /** Time from when no layer can be rolled back any more; layers not committed and released everywhere by then are left to the workers. */
  readonly releaseMs: number;
  /** Time for a rank that came up late and must follow a commit to load the experts that it was given. */
  readonly catchUpMs: number;
  readonly retryMs: number;
  readonly attempts: number;
}

export const defaultLimits: RunLimits = {
  layersInFlight: 8,
  prepareMs: 60_000,
  releaseMs: 120_000,
  catchUpMs: 30_000,
  retryMs: 150,
  attempts: 3,
};

/** The kinds of call of which a rank has at most one each under way. `drain` is Release with `drainOnly`. */
export type Call = "commit" | "drain" | "release";

export type Event =
  | { readonly type: "start" }
  | { readonly type: "tick"; readonly now: number }
  | { readonly type: "ready"; readonly rank: number; readonly bootId: string; readonly layer: number; readonly bytes: number }
  | { readonly type: "failed"; readonly rank: number; readonly bootId: string; readonly layer: number; readonly message: string }
  | {
      readonly type: "committed";
      readonly rank: number;
      readonly bootId: string;
      readonly layers: readonly number[];
      readonly asked: readonly number[];
    }
  | { readonly type: "refused"; readonly rank: number; readonly bootId: string; readonly epoch: number; readonly message: string }
  | {
      readonly type: "released";
      readonly rank: number;
      readonly bootId: string;
      readonly layers: readonly number[];
      readonly asked: readonly number[];
      readonly drainOnly: boolean;
    }
  /** A call failed, and is made again. */
  | { readonly type: "unanswered"; readonly rank: number; readonly call: Call }
  /** A rank is live, for the first time or again: its process is new, and its memory empty. */
  | { readonly type: "joined"; readonly rank: number; readonly bootId: string }
  | { readonly type: "lost"; readonly rank: number };

export type Action =
  | { readonly type: "prepare"; readonly rank: number; readonly layers: readonly number[]; readonly deadline: number }
  | { readonly type: "commit"; readonly rank: number; readonly layers: readonly number[] }
  /** The rank gives up the parent's expert replicas. With `drainOnly` it keeps them, and only says whether its frames are answered. */
  | { readonly type: "release"; readonly rank: number; readonly layers: readonly number[]; readonly drainOnly: boolean }
  | { readonly type: "abort"; readonly rank: number; readonly layers: readonly number[] };

interface AbortedLayer {
  readonly layer: number;
  readonly reason: string;
}

/** A layer that was committed, but not by everybody, or whose parent not every source has left behind. */
export interface UnreleasedLayer {
  readonly layer: number;
  readonly reason: string;
}

export type Outcome =
  | { readonly result: "committed"; readonly aborted: readonly AbortedLayer[]; readonly unreleased: readonly UnreleasedLayer[] }
  | { readonly result: "aborted"; readonly aborted: readonly AbortedLayer[] }
  /** Another leader has a newer plan: this one must stop. */
  | { readonly result: "superseded"; readonly epoch: number; readonly message: string };
