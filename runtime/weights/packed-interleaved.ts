// Experts as gpt-oss keeps them, with biases beside their matrices. The outputs of gate and up alternate: in `gate_up_proj_bias`
// [experts, 2 x rows], and in the columns of `gate_up_proj` [experts, K, 2 x rows], whose matrices lie as [in, out]. A matrix is read with
// the whole entry of its expert. Not here: the same experts in MXFP4 (packed-mxfp4.ts), whose biases are read here too.

import { expertsOf, isPlain, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import { widenStored } from "./stored.ts";
import type { RowRange, StoredRows, TensorView } from "./tensor-view.ts";

/** Matrices that lie in one tensor, output by output in turn. */
export const interleavedMatrices: Readonly<Record<string, readonly string[]>> = {
  gate_up_proj: ["gate_proj", "up_proj"],
  down_proj: ["down_proj"],
};
const stackName = /^(.*\.experts)\.(gate_up_proj|down_proj)(_bias)?$/;

/** One of the matrices or biases of an expert: which of how many that alternate. */
interface Turn {
  readonly expert: number;
  readonly each: number;
  readonly of: number;
}

/** Value `from(i)` of the entry at place i, whatever the size of a value. Pure. */
function picked(entry: StoredRows, count: number, from: (i: number) => number): StoredRows {
  const size = entry.bytes.length / entry.values.length;
  const [bytes, values] = [new Uint8Array(count * size), new Float32Array(count)];
  for (let i = 0; i < count; i++) {
    const at = from(i);
    values[i] = entry.values[at] as number;
    for (let byte = 0; byte < size; byte++) bytes[i * size + byte] = entry.bytes[at * size + byte] as number;
  }
  return { form: entry.form, bytes, values };
}

function matrixView(tensor: RawTensor, { expert, each, of }: Turn): TensorView {
  const [, columns = 0, outputs = 0] = tensor.info.shape;
  const whole = tensor.view();
  return {
    shape: [outputs / of, columns],
    form: whole.form,
    async rows({ first, rows }: RowRange) {
      const entry = await whole.rows({ first: expert * columns, rows: columns });
      return picked(entry, rows * columns, (i) => (i % columns) * outputs + (first + Math.floor(i / columns)) * of + each);
    },
  };
}

/** Biases are f32, whatever they are stored as. */
function biasView(tensor: RawTensor, { expert, each, of }: Turn): TensorView {
  const [, outputs = 0] = tensor.info.shape;
  const whole = tensor.view();
  return {
    shape: [outputs / of],
    form: "f32",
    async rows() {
      const { form, bytes } = await whole.rows({ first: expert, rows: 1 });
      const values = widenStored(form, bytes).filter((_, i) => i % of === each);
      return { form: "f32", bytes: new Uint8Array(values.buffer), values };
    },
  };
}

export const interleavedExperts: Rule = (name, raw) => {
  const [, at = "", stem = "", bias] = stackName.exec(name) ?? [];
  const names = interleavedMatrices[stem] ?? [];
  const tensor = raw.get(name);
  if (!tensor || !isPlain(tensor.info) || (bias === undefined && !raw.has(`${name}_bias`))) return undefined;
  const { shape } = tensor.info;
  const dimensions = bias === undefined ? 3 : 2;
  if (shape.length !== dimensions || (shape.at(-1) ?? 0) % names.length !== 0)
    throw misshaped(tensor, name, bias === undefined ? "stacks beside biases are [experts, K, rows]" : "biases are [experts, rows]");
  const view = bias === undefined ? matrixView : biasView;
  const views = Array.from({ length: expertsOf(tensor, name) }, (_, expert) =>
    names.map((matrix, each) => {
      const as = `${at}.${expert}.${matrix}.${bias === undefined ? "weight" : "bias"}`;
      return [as, view(tensor, { expert, each, of: names.length })] as const;
    }),
  ).flat();
  return { takes: [name], views };
};
