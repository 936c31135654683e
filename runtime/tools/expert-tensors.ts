// The reading of one matrix or bias of an expert from a checkpoint, whether the tensor is its own or one of all experts of the layer.
// Of a stacked tensor only the expert's entry is read. Not here: where a family keeps what (runtime/models).
import type { GgmlWeight } from "../kernels/weights.ts";
import type { ExpertTensor, StackedTensor } from "../models/family.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkShape } from "./tensors.ts";

const stackName = /^(.*\.experts)\.(gate_up|down)_proj(_bias)?$/;

/** Where a checkpoint has a matrix: in the stack that a family names, or on its own, as packed stacks and GGUF files are read. */
export function placeIn({ shape }: Pick<Checkpoint, "shape">, place: ExpertTensor): ExpertTensor {
  if (typeof place === "string" || shape(place.tensor) !== undefined) return place;
  const [, at, stack = "", bias] = stackName.exec(place.tensor) ?? [];
  const matrix = stack.split("_")[place.share?.part ?? 0];
  const single = `${at}.${place.expert}.${matrix}_proj.${bias === undefined ? "weight" : "bias"}`;
  return shape(single) === undefined ? place : single;
}

export const tensorName = (place: ExpertTensor): string => (typeof place === "string" ? place : place.tensor);

/** The shape of the checkpoint's tensor that a matrix or bias of `shape` lies in. */
export function tensorShape(place: ExpertTensor, shape: readonly number[], experts: number): readonly number[] {
  if (typeof place === "string") return shape;
  const [rows = 0, ...columns] = shape;
  const entry = [rows * (place.share?.of ?? 1), ...columns];
  return [experts, ...(place.transposed ? entry.toReversed() : entry)];
}

/** The values [rows, columns] of a part from those of the expert's whole entry; a bias has one column. Pure. */
export function partOf(entry: Float32Array, shape: readonly number[], { share, transposed }: StackedTensor): Float32Array {
  const [rows = 0, columns = 1] = shape;
  const { part, of, order } = share ?? { part: 0, of: 1, order: "runs" as const };
  const [first, step] = order === "interleaved" ? [part, of] : [part * rows, 1];
  const out = new Float32Array(rows * columns);
  const outputs = rows * of;
  for (let row = 0; row < rows; row++) {
    const from = first + row * step;
    for (let column = 0; column < columns; column++)
      out[row * columns + column] = entry[transposed ? column * outputs + from : from * columns + column] as number;
  }
  return out;
}

/** Throws AppError `MissingTensor` or `ShapeMismatch`. */
export function checkExpertTensor(checkpoint: Checkpoint, place: ExpertTensor, shape: readonly number[], experts: number): void {
  const name = tensorName(place);
  checkShape(checkpoint.dir, name, checkpoint.shape(name), tensorShape(place, shape, experts));
}

export async function readExpertTensor(checkpoint: Checkpoint, place: ExpertTensor, shape: readonly number[]): Promise<Float32Array> {
  if (typeof place === "string") return checkpoint.read(place);
  return partOf(await checkpoint.readEntry(place.tensor, place.expert), shape, place);
}

/** The same as it is stored where it is on its own, for a codec that keeps it so. */
export async function storedExpertTensor(
  checkpoint: Checkpoint,
  place: ExpertTensor,
  shape: readonly number[],
): Promise<Float32Array | GgmlWeight> {
  return typeof place === "string" ? checkpoint.readStored(place) : readExpertTensor(checkpoint, place, shape);
}
