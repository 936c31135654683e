// The declaration of a recipe that trains a model by another gate than its own, which the run ends in: what replaces it, and the numbers
// that the new one follows from step to step. They follow from the step alone, so that ranks and stops change nothing. Pure.
import type { ModelProgram } from "../../kernels/segment.ts";

/** One recipe as a run asks for it: its name, and numbers behind it. */
export interface GateSetting {
  readonly name: string;
  readonly numbers: readonly number[];
}

interface Gated {
  /** What is trained: the model, with its gates replaced. It has the model's tensors, and a frozen one more, which all gates read. */
  readonly program: ModelProgram;
  /** The name of that tensor. */
  readonly schedule: string;
  /** Its values in a step, counted from 1. */
  numbersAt(step: number): readonly number[];
}

export interface GateRecipe {
  /** What the numbers are called, in their order. */
  readonly numbers: readonly string[];
  /** Why these numbers cannot be in a run of so many steps; undefined where they can. */
  refuses(setting: GateSetting, steps: number): string | undefined;
  /** `after`: the last step that the gate has no part in. Throws AppError where the model is none for it. */
  attach(program: ModelProgram, setting: GateSetting, after: number): Gated;
}
