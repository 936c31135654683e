// The types of the plan protocol (protocol.ts): tasks, events, actions and the outcome.
import type { LayerPlacement } from "../../../crds/plan.ts";

export const layerPhases = ["waiting", "preparing", "committing", "releasing", "free", "aborted"] as const;
export type LayerPhase = (typeof layerPhases)[number];

export interface LayerTask {
  readonly placement: LayerPlacement;
  /** Resident bytes that each rank newly hosts; `outgoing` are those that it releases. */
  readonly incoming: ReadonlyMap<number, number>;
  readonly outgoing: ReadonlyMap<number, number>;
  readonly committedBefore: boolean;
}

export interface RunOptions {
  readonly epoch: number;
  /** The changed layers, in the order in which they fit into memory. */
  readonly tasks: readonly LayerTask[];
  readonly members: ReadonlyMap<number, string>;
  /** Resident bytes that each rank may hold, staging slot included; `used` are those of the parent plan. */
  readonly budget: ReadonlyMap<number, number>;
  readonly used: ReadonlyMap<number, number>;
  readonly now: number;
  readonly limits: RunLimits;
  readonly rules?: Partial<ProtocolRules> | undefined;
}

export interface RunLimits {
  readonly layersInFlight: number;
  /** After this time a layer that is not ready is rolled back. */
  readonly prepareMs: number;
  /** How long layers that can only go forward may take; workers finish the rest. */
  readonly releaseMs: number;
  /** How long a late rank that must follow a commit may take to load its experts. */
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

/** A rank has at most one call of each kind in progress. `drain` is Release with `drainOnly`. */
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
  | { readonly type: "unanswered"; readonly rank: number; readonly call: Call }
  | { readonly type: "joined"; readonly rank: number; readonly bootId: string }
  | { readonly type: "lost"; readonly rank: number };

export type Action =
  | { readonly type: "prepare"; readonly rank: number; readonly layers: readonly number[]; readonly deadline: number }
  | { readonly type: "commit"; readonly rank: number; readonly layers: readonly number[] }
  /** The rank releases the parent's expert replicas. With `drainOnly` it only reports whether its frames are answered. */
  | { readonly type: "release"; readonly rank: number; readonly layers: readonly number[]; readonly drainOnly: boolean }
  | { readonly type: "abort"; readonly rank: number; readonly layers: readonly number[] };

interface AbortedLayer {
  readonly layer: number;
  readonly reason: string;
}

export interface UnreleasedLayer {
  readonly layer: number;
  readonly reason: string;
}

export type Outcome =
  | { readonly result: "committed"; readonly aborted: readonly AbortedLayer[]; readonly unreleased: readonly UnreleasedLayer[] }
  | { readonly result: "aborted"; readonly aborted: readonly AbortedLayer[] }
  | { readonly result: "superseded"; readonly epoch: number; readonly message: string };

export interface ProtocolRules {
  /** `receivers`: the live ranks that newly host an expert of the layer. */
  readonly mayCommit: (receivers: readonly number[], ready: ReadonlySet<number>) => boolean;
  /** `othersDrained`: every other source has its frames of the parent answered. */
  readonly mayRelease: (givesUp: boolean, othersDrained: () => boolean) => boolean;
  /** Unix ms by which layers must be ready, from the deadline so far. */
  readonly deadline: (deadline: number, now: number, prepareMs: number) => number;
}

export const protocolRules: ProtocolRules = {
  mayCommit: (receivers, ready) => receivers.every((rank) => ready.has(rank)),
  mayRelease: (givesUp, othersDrained) => !givesUp || othersDrained(),
  deadline: (deadline) => deadline,
};
