// The ports of a run: clock and stop, which it asks its surroundings for, and what it tells them on its way. Interface only.

import type { Clocked } from "../trace/recorder.ts";
import type { RanksReport, StepReport } from "./run-step.ts";

export interface TrainPorts {
  /** Now, in milliseconds. */
  now(): number;
  /** True once the run is to stop. Alone, a rank is asked before each part of each micro-batch; among others, at the beginning of each step and
   *  at each layer forward, and all stop where one is to. */
  stopped(): boolean;
  /** The world that follows this one, where one is known, and the place in it: state is handed on there, past the ranks by one that leaves.
   *  Unset, or undefined: none is known, and who stops leaves a checkpoint. */
  next?(): { readonly ranks: number; readonly rank: number } | undefined;
  onStart(start: RunStart): void;
  onStep(report: StepReport & { readonly seconds: number }): void;
  /** Is told how each step lay on ranks. */
  onRanks?(report: RanksReport): void;
  onValidation(report: { readonly step: number; readonly loss: number }): void;
  /** After this step there is no room on these ranks for the experts that spawn: the run ends, to go on with more ranks. */
  onShort?(step: number): void;
  /** Is told where the time of steps goes. Unset: nothing stands before what computes and sends. */
  readonly recorder?: Clocked | undefined;
}

interface RunStart {
  readonly device: string;
  readonly parameters: number;
  readonly samples: number;
  /** Where its weights are from, for people. */
  readonly weights: string;
  /** Steps that a checkpoint has already. */
  readonly step: number;
}
