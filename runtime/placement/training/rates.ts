// Rates by which planners weigh rows against expert replicas, from what ranks measured: the same on every rank, since all have what all measured.
// Pure.
import { overlapDegree } from "../calibrate.ts";
import type { LayerProblem } from "./planners/planner.ts";

/** What one rank measured of itself, in seconds. */
export interface Measured {
  /** Of computing one row at an expert, forward and backward; 0 where it computed none. */
  readonly row: number;
  /** Of what it computes of a layer beside experts, forward. */
  readonly dense: number;
  /** Of the way of one expert's parameters to the next rank, while every rank sends to its next. */
  readonly expertReplica: number;
  /** Of that, what its processor was busy with. */
  readonly busy: number;
}

export const measuredFields = ["row", "dense", "expertReplica", "busy"] as const satisfies readonly (keyof Measured)[];

export interface Rates extends Pick<LayerProblem, "overlap"> {
  readonly seconds: Required<LayerProblem["seconds"]>;
}

/** Parameters come, and gradients go. */
const ways = 2;
/** As many as memorySlots may be. */
const expertReplicasMax = 4096;

/** Rows as they take on the mean, expert replicas as they take at the slowest rank, for whom others wait. Undefined before a row was computed. */
export function ratesOf(ranks: readonly Measured[]): Rates | undefined {
  const timed = ranks.map(({ row }) => row).filter((row) => row > 0);
  if (timed.length === 0) return undefined;
  const most = (field: "expertReplica" | "busy"): number => Math.max(...ranks.map((each) => each[field]));
  const [expertReplica, busy] = [most("expertReplica"), Math.min(most("busy"), most("expertReplica"))];
  const link = Math.max(0, expertReplica - busy);
  // What waits for the link is hidden by what a layer computes beside experts.
  const degree = link > 0 ? overlapDegree(Math.min(...ranks.map(({ dense }) => dense)), 1 / link, 1) : expertReplicasMax;
  const row = timed.reduce((a, b) => a + b, 0) / timed.length;
  return { overlap: Math.min(expertReplicasMax, degree), seconds: { row, expertReplica: ways * link, busy: ways * busy } };
}
