// Plans a store before anything is written, from tensors in supported shapes and forms.
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import type { ModelProgram, WeightDecl } from "../kernels/segment.ts";
import { blockOf } from "../kernels/weights.ts";
import { denseWeights, type ModelFamily } from "../models/family.ts";
import { isBias, valuesOf } from "../weights/codecs/codec.ts";
import { codecFor } from "../weights/codecs/index.ts";
import type { SafetensorsDtype } from "../weights/safetensors.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import { type LayerShape, unitShapeOf } from "../weights/store.ts";
import { type StoredForm, storedBytes } from "../weights/stored.ts";
import type { Checkpoint } from "../weights/tensor-view.ts";
import { checkShape } from "./check-tensors.ts";

export interface ModelParts {
  readonly checkpoint: Checkpoint;
  readonly family: ModelFamily;
  readonly program: ModelProgram;
  readonly shapes: readonly LayerShape[];
}

/** Stops at the first missing one, so that a false config.json costs little. */
export function knownTensors({ checkpoint, family, program, shapes }: ModelParts): ReadonlySet<string> {
  const known = new Set<string>();
  const check = (name: string, shape: readonly number[]): void => {
    checkShape(checkpoint.dir, name, checkpoint.shape(name), shape);
    known.add(name);
  };
  for (const { name, shape } of denseWeights(program)) check(name, shape);
  for (const [layer, { experts, matrices }] of shapes.entries())
    for (let expert = 0; expert < experts; expert++) {
      const tensors = family.expertTensors(layer, expert);
      for (const { name, shape } of matrices) check(tensors[name] ?? name, shape);
    }
  return known;
}

/** forms[layer][matrix]; throws where experts of a layer differ. */
export function expertForms({ checkpoint, family, shapes }: ModelParts): StoredForm[][] {
  return shapes.map(({ experts, matrices }, layer) =>
    matrices.map(({ name, shape }) => {
      if (isBias(shape)) return "f32";
      const tensorOf = (expert: number): string => family.expertTensors(layer, expert)[name] ?? name;
      const form = checkpoint.form(tensorOf(0));
      for (let expert = 1; expert < experts; expert++) {
        const other = checkpoint.form(tensorOf(expert));
        if (other === form) continue;
        throw new AppError(
          `${checkpoint.dir}: tensor "${tensorOf(expert)}" is ${other} and "${tensorOf(0)}" ${form}; codec source keeps one type a matrix and layer: name another --codec`,
          { code: "UnsupportedModel" },
        );
      }
      return form;
    }),
  );
}

const partsOf = (codec: CodecName, forms: readonly StoredForm[] | undefined, { matrices }: LayerShape) =>
  unitShapeOf(codecFor(codec).asGiven ? forms : undefined, matrices);

type UnitsOf = Pick<ModelParts, "checkpoint" | "shapes">;

/** What `unitsBytes` throws, for experts that are made from floats. */
export function checkBlocks(parts: UnitsOf, codecs: readonly CodecName[]): void {
  for (const codec of codecs) if (!codecFor(codec).asGiven) unitsBytes(parts, codec, []);
}

/** Bytes of all units of a codec. Throws `UnsupportedShape` where its blocks do not divide a row. */
export function unitsBytes({ checkpoint, shapes }: UnitsOf, codec: CodecName, forms: readonly (readonly StoredForm[])[]): number {
  return shapes.reduce((sum, shape, layer) => {
    if (shape.experts === 0) return sum;
    const parts = partsOf(codec, forms[layer], shape);
    const of = codecFor(codec).forms(parts);
    for (const part of parts) checkRows(checkpoint.dir, layer, part, of[part.name] ?? "f32");
    return sum + shape.experts * codecFor(codec).unitBytes(parts);
  }, 0);
}

function checkRows(where: string, layer: number, { name, shape }: WeightDecl, form: Parameters<typeof blockOf>[0]): void {
  const [columns = 1, values] = [shape.at(-1), blockOf(form)];
  if (isBias(shape) || columns % values === 0) return;
  throw new AppError(
    `${where}: ${form} needs rows of a multiple of ${values} values, matrix ${name} of layer ${layer}'s experts has ${columns}; use --codec f32`,
    { code: "UnsupportedShape" },
  );
}

const dtypes: Partial<Record<StoredForm, SafetensorsDtype>> = { f32: "F32", f16: "F16", bf16: "BF16" };

/** The dense part in its stored forms, blocks as bytes. */
interface DensePlan {
  readonly tensors: readonly TensorToWrite[];
  readonly forms: Readonly<Record<string, StoredForm>>;
  readonly bytes: number;
}

/** `onBytes` reports reads. */
export function planDense(
  { checkpoint, program }: Pick<ModelParts, "checkpoint" | "program">,
  onBytes: (bytes: number, name: string) => void,
): DensePlan {
  const forms: Record<string, StoredForm> = {};
  let bytes = 0;
  const counted = async function* (name: string, pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of pieces) {
      yield piece;
      onBytes(piece.length, name);
    }
  };
  const tensors = denseWeights(program).map(({ name, shape }): TensorToWrite => {
    const stored = checkpoint.form(name);
    const dtype = dtypes[stored];
    if (dtype === undefined && shape.length === 2) {
      const [rows = 0, columns = 0] = shape;
      const rowBytes = storedBytes(stored, columns);
      forms[name] = stored;
      bytes += rows * rowBytes;
      return { name, dtype: "U8", shape: [rows, rowBytes], read: () => counted(name, checkpoint.pieces(name)) };
    }
    bytes += storedBytes(dtype === undefined ? "f32" : stored, valuesOf(shape));
    if (dtype === undefined) return { name, dtype: "F32", shape, read: () => counted(name, checkpoint.floats(name)) };
    return { name, dtype, shape, read: () => counted(name, checkpoint.pieces(name)) };
  });
  return { tensors, forms, bytes };
}
