// The tensors of a model store as views, as those of a checkpoint.
import { isGgml, type WeightData } from "../kernels/weights.ts";
import { bytesOf } from "./floats.ts";
import type { ModelStore } from "./store.ts";
import { type StoredForm, storedBytes } from "./stored.ts";
import { rowsOf, type TensorView } from "./tensor-view.ts";

interface Info {
  readonly form: StoredForm;
  readonly shape: readonly number[];
}

/** What was asked for last stays in memory, since a tensor is read in pieces and an expert by matrix. */
function lastOf<T>(): (key: string, read: () => Promise<T>) => Promise<T> {
  let last: { readonly key: string; readonly value: Promise<T> } | undefined;
  return (key, read) => {
    if (last?.key !== key) last = { key, value: read() };
    return last.value;
  };
}

function viewOf({ form, shape }: Info, read: () => Promise<WeightData>): TensorView {
  const rowBytes = storedBytes(form, shape.at(-1) ?? 1);
  return {
    form,
    shape,
    async rows({ first, rows }) {
      const weight = await read();
      const bytes = isGgml(weight) ? weight.data : bytesOf(weight.data);
      return rowsOf(form, bytes.subarray(first * rowBytes, (first + rows) * rowBytes));
    },
  };
}

/** The dense part. */
export function denseViews(store: ModelStore): ReadonlyMap<string, TensorView> {
  const last = lastOf<WeightData>();
  return new Map(
    store.denseNames.map((name) => [name, viewOf(store.denseInfo(name) as Info, () => last(name, () => store.readDense(name)))] as const),
  );
}
