// The interface of rules that unpack safetensors tensors, and their shared helpers.
import { AppError } from "../../crds/common.ts";
import type { Quantization } from "./quantization.ts";
import type { TensorInfo } from "./safetensors.ts";
import type { TensorView } from "./tensor-view.ts";

/** Bounds what a header may claim. */
const expertsMax = 4096;

export interface RawTensor {
  /** Named in messages. */
  readonly path: string;
  readonly info: TensorInfo;
  bytes(from: number, length: number): Promise<Uint8Array>;
  /** Valid for plain types only. */
  view(): TensorView;
}

/** The names that a rule consumes, and the views that replace them. */
interface Unpacked {
  readonly takes: readonly string[];
  readonly views: readonly (readonly [name: string, view: TensorView])[];
}

/** `quantization` is there where a tensor is of words (packed-groups.ts). */
export type Rule = (name: string, raw: ReadonlyMap<string, RawTensor>, quantization?: Quantization) => Unpacked | undefined;

export const isPlain = ({ dtype }: TensorInfo): boolean => ["F32", "F16", "BF16"].includes(dtype);

export function misshaped(tensor: RawTensor, name: string, want: string): AppError {
  return new AppError(`${tensor.path}: tensor "${name}" is [${tensor.info.shape.join(", ")}], ${want}`, { code: "ShapeMismatch" });
}

/** The first dimension, within bounds. */
export function expertsOf(tensor: RawTensor, name: string): number {
  const [experts = 0] = tensor.info.shape;
  if (experts < 1 || experts > expertsMax) throw misshaped(tensor, name, `and stacks hold 1 to ${expertsMax} experts`);
  return experts;
}
