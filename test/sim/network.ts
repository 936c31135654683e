// What simulated workers know of the world around them: the model's shape, who can be reached, faults that are switched on
// from outside, and the oracle that looks on.
import type { PlacementPlan } from "../../crds/plan.ts";
import type { VirtualClock } from "./clock.ts";
import type { SimWorker } from "./worker.ts";

export interface SimShape {
  readonly layers: number;
  readonly experts: number;
  readonly bytes: number;
  readonly budgetBytes: number;
}

export interface SimNetwork {
  readonly clock: VirtualClock;
  readonly random: () => number;
  readonly shape: SimShape;
  readonly deploymentUid: string;
  /** The live one of a rank. */
  worker(rank: number): SimWorker | undefined;
  /** May a message pass between these two now? -2 = operator. */
  connected(a: number, b: number): boolean;
  /** Flips the bytes of one transfer. */
  corrupts(): boolean;
  /** Slows the fetches of a rank down. */
  fetchFactor(rank: number): number;
  /** Is this call delivered twice? */
  duplicates(): boolean;
  /** Told before a worker frees an expert, when one has come or gone, and when a placement is committed or adopted. */
  onFree(worker: SimWorker, layer: number, expert: number): void;
  onMemory(worker: SimWorker, layer: number, expert: number): void;
  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void;
  onAdopt(worker: SimWorker, layers: readonly number[]): void;
}

export const digest = "sha256:model";
/** The bytes of an expert, declared and held. */
export const content = (layer: number, expert: number): string => `bytes ${layer}/${expert}`;
export const keyOf = (shape: SimShape, layer: number, expert: number): number => layer * shape.experts + expert;
