// The interface of a rule by which tensors of a safetensors checkpoint mean others, and what rules share. Pure but for the reads given.
import { AppError } from "../../crds/common.ts";
import type { TensorInfo } from "./safetensors.ts";
import type { TensorView } from "./tensor-view.ts";

/** Experts of a stack, at most: a header chooses no number of its own. */
const expertsMax = 4096;

export interface RawTensor {
  /** The file, for messages. */
  readonly path: string;
  readonly info: TensorInfo;
  bytes(from: number, length: number): Promise<Uint8Array>;
  /** The tensor as it lies; for plain types only. */
  view(): TensorView;
}

/** What becomes of a tensor that a rule knows: the names it takes away, and the views it gives. */
interface Unpacked {
  readonly takes: readonly string[];
  readonly views: readonly (readonly [name: string, view: TensorView])[];
}

export type Rule = (name: string, raw: ReadonlyMap<string, RawTensor>) => Unpacked | undefined;

export const isPlain = ({ dtype }: TensorInfo): boolean => ["F32", "F16", "BF16"].includes(dtype);

export function misshaped(tensor: RawTensor, name: string, want: string): AppError {
  return new AppError(`${tensor.path}: tensor "${name}" is [${tensor.info.shape.join(", ")}], ${want}`, { code: "ShapeMismatch" });
}

/** The experts of a stack: its first dimension, within bounds. */
export function expertsOf(tensor: RawTensor, name: string): number {
  const [experts = 0] = tensor.info.shape;
  if (experts < 1 || experts > expertsMax) throw misshaped(tensor, name, `and stacks hold 1 to ${expertsMax} experts`);
  return experts;
}
