// The words of the plan protocol: what is to be done, what may happen, what is asked of the shell, how it ends. Types and
// limits only; the machine is protocol.ts.
import type { LayerPlacement } from "../../../crds/plan.ts";

export type LayerPhase = "waiting" | "preparing" | "committing" | "releasing" | "free" | "aborted";

/** One layer that the plan changes. */
export interface LayerTask {
  readonly placement: LayerPlacement;
  /** Resident bytes that each rank newly hosts, and that it gives up. */
  readonly incoming: ReadonlyMap<number, number>;
  readonly outgoing: ReadonlyMap<number, number>;
  /** Somebody is known to have committed it: it can only go forward. */
  readonly committedBefore: boolean;
}

export interface RunOptions {
  readonly epoch: number;
  /** In the order in which they fit into memory. */
  readonly tasks: readonly LayerTask[];
  /** Live ranks and their boots. */
  readonly members: ReadonlyMap<number, string>;
  /** Resident bytes a rank may hold, staging slot included, and what the parent plan puts there. */
  readonly budget: ReadonlyMap<number, number>;
  readonly used: ReadonlyMap<number, number>;
  readonly now: number;
  readonly limits: RunLimits;
}

export interface RunLimits {
  readonly layersInFlight: number;
  /** From start: a layer not ready by then is rolled back. */
  readonly prepareMs: number;
  /** From when no layer can be rolled back any more: what is not committed and released everywhere by then is left to the workers. */
  readonly releaseMs: number;
  /** Time for a rank that must follow a commit (it came up late) to load what it was given. */
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

/** Calls of which a rank has one of each kind under way at most. `drain` = Release with `drainOnly`. */
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
  /** A call failed: it is made again. */
  | { readonly type: "unanswered"; readonly rank: number; readonly call: Call }
  /** A rank is live (again): new, or a new boot with empty memory. */
  | { readonly type: "joined"; readonly rank: number; readonly bootId: string }
  | { readonly type: "lost"; readonly rank: number };

export type Action =
  | { readonly type: "prepare"; readonly rank: number; readonly layers: readonly number[]; readonly deadline: number }
  | { readonly type: "commit"; readonly rank: number; readonly layers: readonly number[] }
  /** `drainOnly`: it is asked whether its frames of the parent are answered, and keeps its copies. */
  | { readonly type: "release"; readonly rank: number; readonly layers: readonly number[]; readonly drainOnly: boolean }
  | { readonly type: "abort"; readonly rank: number; readonly layers: readonly number[] };

interface AbortedLayer {
  readonly layer: number;
  readonly reason: string;
}

/** Committed, but not by everybody, or not left behind by every source. */
export interface UnreleasedLayer {
  readonly layer: number;
  readonly reason: string;
}

export type Outcome =
  | { readonly result: "committed"; readonly aborted: readonly AbortedLayer[]; readonly unreleased: readonly UnreleasedLayer[] }
  | { readonly result: "aborted"; readonly aborted: readonly AbortedLayer[] }
  /** Another leader has a newer plan: this one must stop. */
  | { readonly result: "superseded"; readonly epoch: number; readonly message: string };
