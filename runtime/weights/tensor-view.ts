// A checkpoint of named tensor views that read any of their rows, with bounded reads.
import { AppError } from "../../crds/common.ts";
import { isGgmlForm } from "../kernels/ggml/index.ts";
import type { GgmlWeight } from "../kernels/weights.ts";
import { bytesOf } from "./floats.ts";
import { type StoredForm, storedWeight, widenStored } from "./stored.ts";
import { checkWeights } from "./weight-check.ts";

/** Bytes in f32 per read of a non-expert tensor; at least one row or head. */
export const pieceBytesMax = 64 * 1024 * 1024;

/** The leading dimensions count as one: [rows, K]. */
export interface RowRange {
  readonly first: number;
  readonly rows: number;
}

/** Stored rows whose values were checked (weight-check.ts). */
export interface StoredRows {
  readonly form: StoredForm;
  readonly bytes: Uint8Array;
  /** Widens them. */
  values(): Float32Array;
}

export const rowsOf = (form: StoredForm, bytes: Uint8Array): StoredRows => ({ form, bytes, values: () => widenStored(form, bytes) });

interface Checked {
  readonly form: StoredForm;
  readonly bytes: Uint8Array;
  /** The whole tensor's. */
  readonly shape: readonly number[];
  /** Values of the tensor before these. */
  readonly first: number;
}

/** Throws AppError `UnusableWeight`. */
export function checkedRows(where: string, tensor: string, { form, bytes, shape, first }: Checked): StoredRows {
  checkWeights(where, `tensor "${tensor}"`, storedWeight(form, shape, bytes), first);
  return rowsOf(form, bytes);
}

export interface TensorView {
  readonly shape: readonly number[];
  readonly form: StoredForm;
  /** Granularity of row reads, default 1. */
  readonly step?: number;
  /** The form is not that of the file, which has scales apart. */
  readonly packed?: boolean;
  rows(range: RowRange): Promise<StoredRows>;
}

/** Tensors under Hugging Face's names, whatever the file format. */
export interface Checkpoint {
  /** Named in messages. */
  readonly dir: string;
  readonly names: readonly string[];
  shape(name: string): readonly number[] | undefined;
  /** Throws AppError `UnusableWeight` for values that no model has. */
  read(name: string): Promise<Float32Array>;
  /** ggml's stored form where there is one (halves included), else f32; checked as by `read`. */
  readStored(name: string): Promise<Float32Array | GgmlWeight>;
  form(name: string): StoredForm;
  /** Some tensors were unpacked. */
  readonly packed: boolean;
  /** Stored bytes in order, in pieces of at most `pieceBytesMax` in f32; checked as by `read`. */
  pieces(name: string): AsyncIterable<Uint8Array>;
  /** Like `pieces`, but f32. */
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
    read: async (name) => (await whole(name)).values(),
    async readStored(name) {
      const { form, bytes, values } = await whole(name);
      return isGgmlForm(form) ? { form, shape: find(name).shape, data: bytes } : values();
    },
    form: (name) => find(name).form,
    packed: [...views.values()].some(({ packed }) => packed),
    async *pieces(name) {
      for await (const { bytes } of partsOf(find(name))) yield bytes;
    },
    async *floats(name) {
      for await (const { values } of partsOf(find(name))) yield bytesOf(values());
    },
    close,
  };
}
