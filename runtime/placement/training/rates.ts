// Rates by which planners weigh rows against replicas, from all ranks' measurements, so that they are equal on every rank.
import { overlapDegree } from "../calibrate.ts";
import type { LayerProblem } from "./planners/planner.ts";

export interface Measured {
  /** One row at an expert, forward and backward; 0 if it computed none. */
  readonly row: number;
  readonly dense: number;
  /** The transfer of one expert to the next rank, while every rank sends. */
  readonly expertReplica: number;
  readonly busy: number;
}

export const measuredFields = ["row", "dense", "expertReplica", "busy"] as const satisfies readonly (keyof Measured)[];

export interface Rates extends Pick<LayerProblem, "overlap"> {
  readonly seconds: Required<LayerProblem["seconds"]>;
}

const ways = 2;
const expertReplicasMax = 4096;

/** Mean time of rows; replicas at the slowest rank, for which others wait. Undefined before a row was computed. */
export function ratesOf(ranks: readonly Measured[]): Rates | undefined {
  const timed = ranks.map(({ row }) => row).filter((row) => row > 0);
  if (timed.length === 0) return undefined;
  const most = (field: "expertReplica" | "busy"): number => Math.max(...ranks.map((each) => each[field]));
  const [expertReplica, busy] = [most("expertReplica"), Math.min(most("busy"), most("expertReplica"))];
  const link = Math.max(0, expertReplica - busy);
  const degree = link > 0 ? overlapDegree(Math.min(...ranks.map(({ dense }) => dense)), 1 / link, 1) : expertReplicasMax;
  const row = timed.reduce((a, b) => a + b, 0) / timed.length;
  return { overlap: Math.min(expertReplicasMax, degree), seconds: { row, expertReplica: ways * link, busy: ways * busy } };
}
