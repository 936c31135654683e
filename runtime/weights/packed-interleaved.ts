// gpt-oss's expert layout: outputs of gate and up alternate in `gate_up_proj` [experts, K, 2 x rows] and its bias [experts, 2 x rows].

import { bytesOf } from "./floats.ts";
import { expertsOf, isPlain, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import type { TensorToWrite } from "./safetensors-writer.ts";
import { widenStored } from "./stored.ts";
import type { RowRange, StoredRows, TensorView } from "./tensor-view.ts";

/** Matrices that share a tensor, output by output. */
export const interleavedMatrices: Readonly<Record<string, readonly string[]>> = {
  gate_up_proj: ["gate_proj", "up_proj"],
  down_proj: ["down_proj"],
};
const stackName = /^(.*\.experts)\.(gate_up_proj|down_proj)(_bias)?$/;

/** Its position among those that alternate. */
interface Interleave {
  readonly expert: number;
  readonly each: number;
  readonly of: number;
}

/** Value `from(i)` of the entry at place i, for any value size. */
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

function matrixView(tensor: RawTensor, { expert, each, of }: Interleave): TensorView {
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

/** Biases become f32. */
function biasView(tensor: RawTensor, { expert, each, of }: Interleave): TensorView {
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

const expertName = /^(.*\.experts)\.([0-9]+)\.([a-z_]+)\.(weight|bias)$/;

/** All alternating tensors of the first expert come first. */
interface Stack {
  readonly of: number;
  readonly members: TensorToWrite[];
}

/** Undefined outside of stacks. */
function placeOf(name: string) {
  const [, at = "", expert = "", matrix = "", kind] = expertName.exec(name) ?? [];
  const [stem, names] = Object.entries(interleavedMatrices).find(([, each]) => each.includes(matrix)) ?? [];
  if (stem === undefined || names === undefined) return undefined;
  const place = Number(expert) * names.length + names.indexOf(matrix);
  return { stack: `${at}.${stem}${kind === "bias" ? "_bias" : ""}`, of: names.length, place };
}

/** Puts f32 stacks at the place of their first tensor. Every expert must be there. */
export function interleaveExperts(tensors: readonly TensorToWrite[]): readonly TensorToWrite[] {
  const stacks = new Map<string, Stack>();
  const order: (TensorToWrite | string)[] = [];
  for (const tensor of tensors) {
    const found = placeOf(tensor.name);
    if (found === undefined) {
      order.push(tensor);
      continue;
    }
    const { stack, of, place } = found;
    if (!stacks.has(stack)) order.push(stack);
    const { members } = stacks.get(stack) ?? { members: [] };
    members[place] = tensor;
    stacks.set(stack, { of, members });
  }
  return order.map((one) => (typeof one === "string" ? stackOf(one, stacks.get(one) as Stack) : one));
}

function stackOf(name: string, { of, members }: Stack): TensorToWrite {
  const [rows = 0, ...columns] = members[0]?.shape ?? [];
  return {
    name,
    dtype: "F32",
    shape: [members.length / of, ...columns, of * rows],
    async *read() {
      for (let first = 0; first < members.length; first += of) {
        const entry = new Float32Array(of * rows * (columns[0] ?? 1));
        for (const [each, member] of members.slice(first, first + of).entries())
          alternate(entry, await floatsOf(member), { each, of, rows });
        yield bytesOf(entry);
      }
    },
  };
}

/** Writes a matrix [rows, columns] into an entry [columns, rows x of]. */
function alternate(
  entry: Float32Array,
  values: Float32Array,
  { each, of, rows }: Omit<Interleave, "expert"> & { readonly rows: number },
): void {
  const columns = values.length / rows;
  for (let i = 0; i < values.length; i++) entry[(i % columns) * rows * of + Math.floor(i / columns) * of + each] = values[i] as number;
}

async function floatsOf(tensor: TensorToWrite): Promise<Float32Array> {
  const given = tensor.read();
  if (Symbol.asyncIterator in given) throw new TypeError(`${tensor.name} comes in pieces`);
  const bytes = await given;
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}
