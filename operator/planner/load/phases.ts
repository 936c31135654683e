// The balance of prefill and decode under a plan, each by itself, for the status.
import { type Phase, phases } from "../../../crds/telemetry.ts";
import { predictedLayers } from "../decide.ts";
import type { PlanInput } from "../policy.ts";
import type { ClosedWindow } from "./windows.ts";

export interface PhaseLoad {
  readonly phase: Phase;
  readonly selections: number;
  /** max/mean over ranks under the plan's weights: worst layer, and mean of layers. */
  readonly worst: number;
  readonly mean: number;
}

/** Leaves out phases and layers with fewer than `rowsMin` selections. */
export function phaseLoads(input: PlanInput, window: Pick<ClosedWindow, "routedByPhase">, rowsMin: number): PhaseLoad[] {
  const { layers, experts } = input.shape;
  return phases.flatMap((phase): PhaseLoad[] => {
    const load = window.routedByPhase[phase];
    const rows = Array.from({ length: layers }, (_, l) => load.subarray(l * experts, (l + 1) * experts).reduce((a, b) => a + b, 0));
    const ratios = predictedLayers({ ...input, load }, input.current ?? []).filter((_, l) => (rows[l] as number) >= Math.max(1, rowsMin));
    if (ratios.length === 0) return [];
    const mean = ratios.reduce((a, b) => a + b, 0) / ratios.length;
    return [{ phase, selections: rows.reduce((a, b) => a + b, 0), worst: Math.max(...ratios), mean }];
  });
}
