// The declaration of a recipe that trains small matrices beside the model's own, which stay as they are: the program that is trained, its
// first values, and the plain model that computes the same in the end. Pure.
import type { ModelProgram } from "../../kernels/segment.ts";
import type { ModelFamily } from "../../models/family.ts";

/** One recipe as a run asks for it: its name, and whole numbers behind it. */
export interface AdapterSetting {
  readonly name: string;
  readonly numbers: readonly number[];
}

/** The model that adapters are trained beside. */
export interface AdapterBase {
  readonly config: Readonly<Record<string, unknown>>;
  readonly architecture: string;
}

/** A tensor of the plain model: one of the base, to which the product of two that are trained is added where there is one. */
export interface Merged {
  readonly tensor: string;
  readonly product?: { readonly left: string; readonly right: string };
}

export interface Adapted {
  /** What is trained. Its weights that are the base's are frozen. */
  readonly program: ModelProgram;
  readonly expertTensors: ModelFamily["expertTensors"];
  /** Standard deviation of the first values of a trained tensor; 0 for one that begins with nothing. */
  deviation(tensor: string, shape: readonly number[]): number;
  /** The plain model, and what each of its tensors is made of. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly family: ModelFamily;
  merged(tensor: string): Merged;
  /** What is written beside the trained tensors, so that others can load them: the name of a file and its JSON. */
  readonly description: { readonly file: string; readonly json: Readonly<Record<string, unknown>> };
}

export interface AdapterRecipe {
  /** What the numbers are called, in their order: "EXPERTS", "TOPK", "RANK". */
  readonly numbers: readonly string[];
  /** Throws AppError where numbers do not suit, or the base is no model for it. */
  attach(base: AdapterBase, setting: AdapterSetting): Adapted;
}
