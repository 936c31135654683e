// Rounds matrices to ggml's types, by how much each column's input matters.
import { AppError } from "../../crds/common.ts";
import { type GgmlForm, ggmlBytes } from "../kernels/ggml/index.ts";
import { ggmlLibrary } from "./ggml/library.ts";
import { numberOf } from "./ggml/types.ts";

interface Matrix {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export interface Rounder {
  /** On another thread; `importance`: a number above 0 for each column, unset = all alike. Throws AppError `UnusableWeight`. */
  round(type: GgmlForm, matrix: Matrix, importance?: Float32Array): Promise<Uint8Array>;
}

/** A tenth of the time of `every`. */
function areFinite(data: Float32Array): boolean {
  let none = 0;
  for (let i = 0; i < data.length; i++) none += (data[i] as number) - (data[i] as number);
  return none === 0;
}

/** Throws AppError `BackendUnavailable` with the remedy. */
export function createRounder(): Rounder {
  const ggml = ggmlLibrary();
  return {
    async round(type, { shape, data }, importance) {
      const columns = shape.at(-1) ?? 1;
      // ggml ends the process over what is not finite.
      if (!areFinite(data)) throw new AppError("a matrix has values that are not finite", { code: "UnusableWeight" });
      const blocks = new Uint8Array(ggmlBytes(type, data.length));
      const weights = importance ?? new Float32Array(columns).fill(1);
      await ggml.quantizeApart(numberOf(type), data, blocks, 0, data.length / columns, columns, weights);
      return blocks;
    },
  };
}
