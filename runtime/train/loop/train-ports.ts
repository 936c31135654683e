// The ports of a run: clock, stop, and reports.

import type { Clocked } from "../trace/recorder.ts";
import type { RanksReport, StepReport } from "./run-step.ts";

export interface TrainPorts {
  /** Milliseconds. */
  now(): number;
  /**
   * True once the run is to stop. A single rank asks before each part of each micro-batch; several ask at each step and each layer
   * forward, and all stop if one is to.
   */
  stopped(): boolean;
  /**
   * The next world and the place in it, to which state is handed on; leaving ranks are past its ranks. If unset or undefined, a
   * stopping rank writes a checkpoint.
   */
  next?(): { readonly ranks: number; readonly rank: number } | undefined;
  onStart(start: RunStart): void;
  onStep(report: StepReport & { readonly seconds: number }): void;
  onRanks?(report: RanksReport): void;
  onValidation(report: { readonly step: number; readonly loss: number }): void;
  /** After this step the ranks lack memory for the experts that spawn, so the run ends. */
  onShort?(step: number): void;
  readonly recorder?: Clocked | undefined;
}

interface RunStart {
  readonly device: string;
  readonly parameters: number;
  readonly samples: number;
  readonly weights: string;
  readonly step: number;
}
