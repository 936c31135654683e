// A checkpoint of views: tensors by name, each of which reads any of its rows. It bounds what is read at once.
import { AppError } from "../../crds/common.ts";
import { isGgmlForm } from "../kernels/ggml/index.ts";
import type { GgmlWeight } from "../kernels/weights.ts";
import { bytesOf } from "./floats.ts";
import type { StoredForm } from "./stored.ts";

/** Bytes in f32 that an import reads of a tensor outside the experts at once, or one row or head where that is more. */
export const pieceBytesMax = 64 * 1024 * 1024;

/** Rows of a tensor whose leading dimensions are counted as one: [rows, K]. */
export interface RowRange {
  readonly first: number;
  readonly rows: number;
}

/** Rows as they are stored, whose values no reason speaks against (weight-check.ts). */
export interface StoredRows {
  readonly form: StoredForm;
  readonly bytes: Uint8Array;
  /** The same in f32. */
  readonly values: Float32Array;
}

export interface TensorView {
  readonly shape: readonly number[];
  readonly form: StoredForm;
  /** Rows are read in multiples of so many; unset: one by one. */
  readonly step?: number;
  rows(range: RowRange): Promise<StoredRows>;
}

/** The tensors of a model in Hugging Face's names, whatever file they lie in. */
export interface Checkpoint {
  /** The folder or file, for messages. */
  readonly dir: string;
  readonly names: readonly string[];
  shape(name: string): readonly number[] | undefined;
  /** Throws AppError `UnusableWeight` for values that no model has. */
  read(name: string): Promise<Float32Array>;
  /** A matrix as it is stored where that is a type of ggml (halves are), else in f32; checked as `read` does. */
  readStored(name: string): Promise<Float32Array | GgmlWeight>;
  /** The form in which a tensor is stored. */
  form(name: string): StoredForm;
  /** The bytes of a tensor in that form, in order, no more than `pieceBytesMax` in f32 at once; checked as `read` does. */
  pieces(name: string): AsyncIterable<Uint8Array>;
  /** As `pieces`, in f32 whatever is stored. */
  floats(name: string): AsyncIterable<Uint8Array>;
  close(): Promise<void>;
}

const rowsIn = (shape: readonly number[]): number => shape.slice(0, -1).reduce((a, b) => a * b, 1);

async function* partsOf(view: TensorView): AsyncGenerator<StoredRows> {
  const { shape, step = 1 } = view;
  const rows = rowsIn(shape);
  const fitting = Math.floor(pieceBytesMax / (4 * (shape.at(-1) ?? 1)) / step) * step;
  const atOnce = Math.max(step, fitting || 0);
  for (let first = 0; first < rows; first += atOnce) yield await view.rows({ first, rows: Math.min(atOnce, rows - first) });
}

export function checkpointOf(dir: string, views: ReadonlyMap<string, TensorView>, close: () => Promise<void>): Checkpoint {
  const find = (name: string): TensorView => {
    const view = views.get(name);
    if (!view) throw new AppError(`${dir}: has no tensor "${name}"; the checkpoint is incomplete`, { code: "MissingTensor" });
    return view;
  };
  const whole = (name: string): Promise<StoredRows> => {
    const view = find(name);
    return view.rows({ first: 0, rows: rowsIn(view.shape) });
  };
  return {
    dir,
    names: [...views.keys()],
    shape: (name) => views.get(name)?.shape,
    read: async (name) => (await whole(name)).values,
    async readStored(name) {
      const { form, bytes, values } = await whole(name);
      return isGgmlForm(form) ? { form, shape: find(name).shape, data: bytes } : values;
    },
    form: (name) => find(name).form,
    async *pieces(name) {
      for await (const { bytes } of partsOf(find(name))) yield bytes;
    },
    async *floats(name) {
      for await (const { values } of partsOf(find(name))) yield bytesOf(values);
    },
    close,
  };
}
