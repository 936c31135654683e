// The reading of one matrix or bias of an expert from a checkpoint, whether the tensor is its own or one of all experts of the layer.
// Of a stacked tensor only the expert's entry is read. Not here: where a family keeps what (runtime/models).
import type { ExpertTensor, StackedTensor } from "../models/family.ts";
import type { ExpertMatrices } from "../weights/codecs/codec.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkShape } from "./tensors.ts";

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

/** As it is stored where that is a type of ggml and the tensor is the expert's own, else in f32. */
export async function readExpertTensor(
  checkpoint: Checkpoint,
  place: ExpertTensor,
  shape: readonly number[],
): Promise<ExpertMatrices[string]> {
  if (typeof place === "string") return checkpoint.readStored(place);
  return partOf(await checkpoint.readEntry(place.tensor, place.expert), shape, place);
}
