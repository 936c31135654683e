// The declaration of a recipe: how a run asks for it, what refuses it, and the hooks by which it changes training. What hooks give follows
// from their arguments alone, so that ranks, stops and placement change no bits. Pure.
import type { Unit } from "../model/layout.ts";
import type { ModelSource } from "../model/model-source.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import type { Arrays, Operands } from "../optimizers/optimizer.ts";
import type { Code } from "../optimizers/wasm.ts";

/** Options by which recipes are asked for, in the order in which a run looks at their hooks. */
export const recipeOptions = ["balance", "adapters", "spawn", "gate", "local"] as const;
export type RecipeOption = (typeof recipeOptions)[number];

export type Numbers = Readonly<Record<string, number>>;

/** One recipe as a run asks for it. */
export interface RecipeSetting {
  readonly name: string;
  readonly numbers: Numbers;
}

export interface RecipeNumber {
  allows(value: number): boolean;
  /** What `allows` asks for, behind "NAME must be". */
  readonly must: string;
}

/** What a recipe is checked against before the model is open. */
export interface RecipeRun {
  readonly steps: number;
  readonly init: string;
  readonly everySteps: number;
  readonly shadow: boolean;
  /** Numbers of another recipe of the run, by its option. */
  beside(option: RecipeOption): Numbers | undefined;
}

/** What a gate did in a step. */
export interface GateCounts {
  /** Rows that each expert has. */
  readonly rows: readonly number[];
  /** Experts that a token has, on average where tokens differ. */
  readonly topK: number;
}

export interface Staged {
  readonly seed: number;
  readonly stage: number;
  /** The last step of the stage before the last one; 0 where there is one. */
  readonly after: number;
  /** Throws AppError `BadOption` with the option as it was given. */
  refuse(reason: string): never;
}

/** The state of a unit: parameters, then the optimizer's arrays, one after another. */
export interface UnitArrays {
  readonly unit: Unit;
  readonly values: Float32Array;
}

export interface Births {
  /** Arrays of a unit. */
  readonly stored: number;
  /** First values of what has no parent. */
  draw(parameter: Unit["parameters"][number]): Float32Array;
  /** The seed of the numbers that change a tensor. */
  seedOf(tensor: string): number;
}

export interface Recipe {
  readonly option: RecipeOption;
  /** It is the option's only recipe, and written without its name. */
  readonly unnamed?: true;
  /** By name, in the order in which they are written. */
  readonly numbers: Readonly<Record<string, RecipeNumber>>;
  /** Why it cannot be in such a run; undefined where it can. */
  refuses?(numbers: Numbers, run: RecipeRun): string | undefined;

  /** The model that a stage trains; undefined: the recipe leaves it as it is. Throws AppError where the model is none for it. */
  model?(source: ModelSource, numbers: Numbers, staged: Staged): TrainedModel | undefined;
  /** The slope of a loss by the sum of each expert's shares over all tokens of a step; rows are constants to it. */
  loss?(counts: GateCounts, numbers: Numbers): Float64Array;
  /** What is added to a gate's bias of choice after a step. Apart from `loss`: a bias has no gradient. */
  bias?(counts: GateCounts, numbers: Numbers): Float64Array;
  /** What worlds do when they meet after `steps` local ones. `begin` sees the arrays at parameters that all worlds have, also at step 0;
   *  `send` gives what a world sends of each parameter, and may change its arrays. */
  readonly meeting?: { begin(arrays: Arrays): void; send(arrays: Arrays, numbers: Numbers): Float32Array };
  /** What is added to each clipped gradient, as definition and as instructions in f32. FedSpeed's alone: averaging corrects nothing. */
  readonly correction?: {
    /** Arrays that it keeps of each parameter, and those of its numbers that it reads. */
    readonly state: readonly string[];
    readonly numbers: readonly string[];
    plain(arrays: Arrays, i: number, numbers: Numbers): number;
    code(operands: Operands<string>): Code;
  };
  /** How far along its gradient the parameters go before the gradient that counts is taken (SAM). FedSpeed's alone. */
  radius?(numbers: Numbers): number;
  /** The last step of a first stage, and the state of a unit of the next one's model. EvoMoE's alone: others have one stage. */
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
