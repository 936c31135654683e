// The state of a rank: its pod, and its part of the ExpertPlacement. Pure.
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import { processBytes } from "../deployment/core/capacity.ts";

export interface RankPod {
  readonly rank: number;
  readonly pod: string;
  readonly node: string | undefined;
  /** The rank's own state where known, else the pod's phase. */
  readonly state: string;
}

export interface RankState extends RankPod {
  readonly epoch: number | undefined;
  /** Over the mean, in the worst layer. */
  readonly loadPercent: number | undefined;
  readonly speedPercent: number | undefined;
  readonly hostedBytes: number | undefined;
  readonly budgetBytes: number | undefined;
  /** Undefined until the rank has reported. */
  readonly memoryExpectedBytes: number | undefined;
}

type Reported = NonNullable<ExpertPlacement["status"]["ranks"]>[number];

/** Buffers and fragmentation beside resident bytes. */
const residentFactor = 1.15;
export const expectedMemoryFormula = `${residentFactor} x (dense part + KV pool + EXPERTS) + ${processBytes / 1e6} MB`;

export function expectedMemory({ hostedBytes, denseBytes = 0, kvBytes = 0 }: Partial<Reported>): number | undefined {
  if (hostedBytes === undefined) return undefined;
  return Math.round((hostedBytes + denseBytes + kvBytes) * residentFactor) + processBytes;
}

export function rankStates<P extends RankPod>(pods: readonly P[], reported: readonly Reported[] = []): readonly (P & RankState)[] {
  const byRank = new Map(reported.map((one) => [one.rank, one]));
  return pods.map((pod) => {
    const report: Partial<Reported> = byRank.get(pod.rank) ?? {};
    const { epoch, loadPercent, speedPercent, hostedBytes, budgetBytes } = report;
    const state = pod.state === "Running" ? (report.state ?? pod.state) : pod.state;
    return { ...pod, state, epoch, loadPercent, speedPercent, hostedBytes, budgetBytes, memoryExpectedBytes: expectedMemory(report) };
  });
}
