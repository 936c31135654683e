// The declaration of a recipe of local steps: several worlds train on data of their own, and meet after a number of steps for an outer one
// that gives all of them the same parameters. Pure.
import type { Arrays, Operands } from "../optimizers/optimizer.ts";
import type { Code } from "../optimizers/wasm.ts";

/** One recipe as a run asks for it. */
export interface LocalSetting {
  readonly name: string;
  /** Steps between two meetings. */
  readonly steps: number;
  /** The recipe's own, by its names for them. */
  readonly numbers: Readonly<Record<string, number>>;
}

interface LocalNumber {
  readonly name: string;
  allows(value: number): boolean;
  /** What `allows` asks for, behind "it must be". */
  readonly must: string;
}

/** Its numbers come rounded to f32, and its arithmetic is in f32, operation by operation. */
export interface LocalRecipe {
  readonly numbers: readonly LocalNumber[];
  /** Arrays that it keeps of each parameter, beside the optimizer's. */
  readonly state: readonly string[];
  /** What is added to each gradient that was clipped: its definition, and the same as instructions. */
  readonly correction?: {
    plain(arrays: Arrays, i: number, numbers: Readonly<Record<string, number>>): number;
    code(operands: Operands<string>): Code;
  };
  /** How far along its gradient a world goes before it takes the gradient that counts; 0: not at all. */
  radius(numbers: Readonly<Record<string, number>>): number;
  /** At the first step, and when worlds have met: the arrays at parameters that all worlds have. */
  begin(arrays: Arrays): void;
  /** What a world sends of each parameter when they meet; its arrays may change. */
  send(arrays: Arrays, numbers: Readonly<Record<string, number>>): Float32Array;
}
