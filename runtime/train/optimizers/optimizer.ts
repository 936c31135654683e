// The interface of an optimizer: its settings and bounds, its arrays per parameter, and its step, as the plain function that defines it
// and as instructions on four floats.
import type { Code } from "./wasm.ts";

export interface Setting {
  readonly option: string;
  readonly fallback: number;
  allows(value: number): boolean;
  /** The text after "it must be" in the error. */
  readonly must: string;
}

export interface OptimizerSettings<Name extends string = string> {
  readonly name: Name;
  readonly values: Readonly<Record<string, number>>;
}

export interface StepFacts {
  readonly step: number;
  readonly rate: number;
  readonly clip: number;
  /** False for norms and biases, which get no weight decay. */
  readonly decays: boolean;
}

/** Parameters `p`, gradients `g`, and the optimizer's own arrays by name. */
export type Arrays = Readonly<Record<string, Float32Array>>;

export interface Operands<Number extends string> {
  number(name: Number): Code;
  array(name: string): Code;
}

/** `Number`: the names of a step's f32 numbers. */
export interface Optimizer<Number extends string = string> {
  readonly settings: Readonly<Record<string, Setting>>;
  /** Arrays beside `p` and `g`, in the order of checkpoints and frames. They begin at zero. */
  readonly state: readonly string[];
  readonly numbers: readonly Number[];
  stepNumbers(values: Readonly<Record<string, number>>, facts: StepFacts): Readonly<Record<Number, number>>;
  /** Defines a step for the floats from..to-1; every operation is rounded to f32. */
  plain(arrays: Arrays, from: number, to: number, numbers: Readonly<Record<Number, number>>): void;
  /** The same as assignments in order: each reads the results of those before. Writes to `g` are dropped. */
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
