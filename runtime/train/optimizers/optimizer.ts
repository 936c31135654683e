// The declaration of an optimizer: its settings with their bounds, the arrays that it keeps of every parameter, and its step, once as the
// plain function that defines it to the bit, once as instructions that work on four floats at a time. Pure.
import type { Code } from "./wasm.ts";

/** A number that a run may choose. */
export interface Setting {
  /** Its name on the command line, and in what a checkpoint was made with. */
  readonly option: string;
  readonly fallback: number;
  allows(value: number): boolean;
  /** What `allows` asks for, behind "it must be". */
  readonly must: string;
}

/** An optimizer as a run asks for it: a number for each of its settings. */
export interface OptimizerSettings<Name extends string = string> {
  readonly name: Name;
  readonly values: Readonly<Record<string, number>>;
}

/** What a step's numbers follow from. */
export interface StepFacts {
  /** Counts from 1. */
  readonly step: number;
  readonly rate: number;
  /** Gradients are multiplied by it: what clipping leaves of them. */
  readonly clip: number;
  /** Whether these parameters are pulled to zero: weights of norms and biases are not. */
  readonly decays: boolean;
}

/** Parameters `p`, gradients `g`, and the optimizer's own arrays by their names. */
export type Arrays = Readonly<Record<string, Float32Array>>;

/** What instructions read: numbers of the step, and arrays as they are by now. */
export interface Operands<Number extends string> {
  number(name: Number): Code;
  array(name: string): Code;
}

/** `Number`: names of the numbers by which the arithmetic of all parameters of a step is done, each of them f32. */
export interface Optimizer<Number extends string = string> {
  readonly settings: Readonly<Record<string, Setting>>;
  /** Arrays beside `p` and `g`, in the order in which checkpoints keep and ranks send them. They begin at zero. */
  readonly state: readonly string[];
  readonly numbers: readonly Number[];
  stepNumbers(values: Readonly<Record<string, number>>, facts: StepFacts): Readonly<Record<Number, number>>;
  /** The definition of a step, for the floats from..to-1: every operation is rounded to f32. */
  plain(arrays: Arrays, from: number, to: number, numbers: Readonly<Record<Number, number>>): void;
  /** The same as assignments, one after another: each reads what those before it wrote. What is written of `g` is not kept. */
  assignments(operands: Operands<Number>): readonly (readonly [array: string, value: Code])[];
}

export const belowOne = (option: string, fallback: number): Setting => ({
  option,
  fallback,
  allows: (value) => value >= 0 && value < 1,
  must: "from 0 to below 1",
});

export const weightDecay = (fallback: number): Setting => ({
  option: "weight-decay",
  fallback,
  allows: (value) => value >= 0 && value <= 1,
  must: "from 0 to 1",
});
