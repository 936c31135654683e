// The interface of a recipe: its option, and the hooks by which it changes training. Hooks depend on their arguments alone, so that
// ranks, restarts and placement change no bits.
import type { Unit } from "../model/layout.ts";
import type { ModelSource } from "../model/model-source.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import type { Arrays, Operands } from "../optimizers/optimizer.ts";
import type { Code } from "../optimizers/wasm.ts";

export const recipeOptions = ["balance", "adapters", "spawn", "gate", "local"] as const;
export type RecipeOption = (typeof recipeOptions)[number];

export type Numbers = Readonly<Record<string, number>>;

export interface RecipeSetting {
  readonly name: string;
  readonly numbers: Numbers;
}

export interface RecipeNumber {
  allows(value: number): boolean;
  /** The text after "NAME must be" in the error. */
  readonly must: string;
}

export interface RecipeRun {
  readonly steps: number;
  readonly init: string;
  readonly everySteps: number;
  readonly shadow: boolean;
  beside(option: RecipeOption): Numbers | undefined;
}

export interface GateCounts {
  readonly rows: readonly number[];
  /** Experts per token, the mean where tokens differ. */
  readonly topK: number;
}

export interface Staged {
  readonly seed: number;
  readonly stage: number;
  /** The last step of the stage before the last one; 0 with one stage. */
  readonly after: number;
  refuse(reason: string): never;
}

/** The state of a unit: parameters, then the optimizer's arrays. */
export interface UnitArrays {
  readonly unit: Unit;
  readonly values: Float32Array;
}

export interface Births {
  readonly stored: number;
  /** Initial values of a parameter that has no parent. */
  draw(parameter: Unit["parameters"][number]): Float32Array;
  seedOf(tensor: string): number;
}

export interface Recipe {
  readonly option: RecipeOption;
  /** True for the option's only recipe, which is written without its name. */
  readonly unnamed?: true;
  readonly numbers: Readonly<Record<string, RecipeNumber>>;
  /** Why the recipe does not work in such a run, or undefined. */
  refuses?(numbers: Numbers, run: RecipeRun): string | undefined;

  /** The model that a stage trains; undefined leaves it as it is. Throws AppError for an unsuitable model. */
  model?(source: ModelSource, numbers: Numbers, staged: Staged): TrainedModel | undefined;
  /** The slope of a loss by the sum of each expert's shares over all tokens of a step; rows are constants to it. */
  loss?(counts: GateCounts, numbers: Numbers): Float64Array;
  /** The change of a gate's selection bias after a step. A bias has no gradient. */
  bias?(counts: GateCounts, numbers: Numbers): Float64Array;
  /**
   * What worlds do when they meet after `steps` local ones. `begin` gets the arrays at parameters that all worlds share,
   * also at step 0; `send` returns what a world sends of each parameter and may change its arrays.
   */
  readonly meeting?: { begin(arrays: Arrays): void; send(arrays: Arrays, numbers: Numbers): Float32Array };
  /** The term added to each clipped gradient, as a definition and as f32 instructions (FedSpeed). */
  readonly correction?: {
    /** The arrays that it stores per parameter, and the numbers that it reads. */
    readonly state: readonly string[];
    readonly numbers: readonly string[];
    plain(arrays: Arrays, i: number, numbers: Numbers): number;
    code(operands: Operands<string>): Code;
  };
  /** How far along the gradient parameters move before the gradient that counts is taken (SAM, FedSpeed). */
  radius?(numbers: Numbers): number;
  /** The last step of a first stage, and the state of a unit of the next stage's model (EvoMoE). */
  readonly birth?: {
    step(numbers: Numbers): number;
    born(parent: UnitArrays, child: Unit, births: Births, numbers: Numbers): Float32Array;
  };
}

export const whole = (from: number, to = Number.MAX_SAFE_INTEGER): RecipeNumber => ({
  allows: (value) => Number.isInteger(value) && value >= from && value <= to,
  must: `a whole number from ${from}${to === Number.MAX_SAFE_INTEGER ? "" : ` to ${to}`}`,
});

export const aboveZero = (to: number): RecipeNumber => ({ allows: (value) => value > 0 && value <= to, must: `above 0 and at most ${to}` });

export const fraction: RecipeNumber = { allows: (value) => value >= 0 && value < 1, must: "from 0 to below 1" };

export const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
