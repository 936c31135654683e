// Matrices whose groups of inputs share a scale and a zero, in words of 32 bits: `X.qweight`, `X.qzeros`, `X.scales` and `X.g_idx` as the
// f32 matrix `X.weight` [out, in] of (value - zero) x scale.
import { AppError } from "../../crds/common.ts";
import { bytesOf } from "./floats.ts";
import { isPlain, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import type { Quantization } from "./quantization.ts";
import { widenTensor } from "./safetensors.ts";
import { checkedRows, type RowRange, type StoredRows, type TensorView } from "./tensor-view.ts";

interface Layout {
  /** What the values of a word of `qweight` follow. */
  readonly along: "inputs" | "outputs";
  /** Where in a word the values of outputs lie that follow one another. */
  readonly places: readonly number[];
  /** Added to each word of `qzeros`. */
  readonly zerosPlus: number;
}

interface Matrix extends Layout, Quantization {
  /** What the names of its tensors have before their endings. */
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly groups: number;
  readonly qweight: RawTensor;
  readonly qzeros: RawTensor;
  readonly scales: RawTensor;
  readonly gIdx: RawTensor | undefined;
}

const ending = ".qweight";
/** Unpacked at once beside the result. */
const codesMax = 1024 * 1024;
/** Inputs of an output that are written one after another: two lines of a cache. */
const tile = 32;

export const groupedRule =
  (method: Quantization["method"], layoutOf: (quantization: Quantization) => Layout): Rule =>
  (name, raw, quantization) => {
    if (!name.endsWith(ending) || quantization?.method !== method) return undefined;
    const stem = name.slice(0, -ending.length);
    const matrix = matrixOf(stem, raw, quantization, layoutOf(quantization));
    const takes = ["qweight", "qzeros", "scales", ...(matrix.gIdx === undefined ? [] : ["g_idx"])].map((part) => `${stem}.${part}`);
    return { takes, views: [[`${stem}.weight`, viewOf(matrix)]] };
  };

/** Throws unless all tensors are there and fit one another. */
function matrixOf(name: string, raw: ReadonlyMap<string, RawTensor>, quantization: Quantization, layout: Layout): Matrix {
  const { method, bits, groupSize, descAct } = quantization;
  const [qweight, per] = [partNamed(name, "qweight", raw), 32 / bits];
  const [down, across] = layout.along === "inputs" ? [per, 1] : [1, per];
  const [height = 0, width = 0] = qweight.info.shape;
  const [inputs, outputs] = [height * down, width * across];
  if (qweight.info.shape.length !== 2 || inputs === 0 || outputs === 0 || outputs % per !== 0)
    throw misshaped(
      qweight,
      `${name}${ending}`,
      `and ${method} of ${bits} bits is [in / ${down}, out / ${across}], out a multiple of ${per}`,
    );
  const groups = groupSize === -1 ? 1 : Math.ceil(inputs / groupSize);
  const shapes = { qzeros: [groups, outputs / per], scales: [groups, outputs], g_idx: [inputs] };
  const fitting = (which: keyof typeof shapes): RawTensor => {
    const [tensor, want] = [partNamed(name, which, raw), shapes[which]];
    if (tensor.info.shape.join() === want.join()) return tensor;
    const why = `[${outputs}, ${inputs}] in groups of ${groupSize} has [${want.join(", ")}]; correct group_size and bits in the configuration, or download the model again`;
    throw misshaped(tensor, `${name}.${which}`, why);
  };
  const gIdx = descAct || raw.has(`${name}.g_idx`) ? fitting("g_idx") : undefined;
  const parts = { qweight, qzeros: fitting("qzeros"), scales: fitting("scales"), gIdx };
  return { ...layout, ...quantization, ...parts, name, inputs, outputs, groups };
}

function partNamed(name: string, which: string, raw: ReadonlyMap<string, RawTensor>): RawTensor {
  const tensor = raw.get(`${name}.${which}`);
  if (tensor && (which === "scales" ? isPlain(tensor.info) : tensor.info.dtype === "I32")) return tensor;
  const found = tensor ? `has dtype ${tensor.info.dtype}` : "is missing";
  const message = `"${name}${ending}" needs it in ${which === "scales" ? "F16, BF16 or F32" : "I32"}; download or export the model again`;
  throw new AppError(`${raw.get(`${name}${ending}`)?.path}: tensor "${name}.${which}" ${found}, and ${message}`, {
    code: tensor ? "UnsupportedDtype" : "MissingTensor",
  });
}

const viewOf = (matrix: Matrix): TensorView => ({
  shape: [matrix.outputs, matrix.inputs],
  form: "f32",
  packed: true,
  rows: (range) => rowsIn(matrix, range),
});

/** A part of a tensor of two dimensions. */
interface Part {
  readonly row: number;
  readonly rows: number;
  readonly column: number;
  readonly columns: number;
}

async function rowsIn(matrix: Matrix, { first, rows }: RowRange): Promise<StoredRows> {
  const { inputs, outputs, groups, qzeros, scales, zerosPlus } = matrix;
  const groupOf = await groupsIn(matrix);
  const values = new Float32Array(rows * inputs);
  const part = { row: 0, rows: groups, column: first, columns: rows };
  const groupScales = widenTensor(scales.info, await partOf(scales, part));
  const zeros = await codesAcross(matrix, qzeros, part, zerosPlus);
  const step = Math.max(tile, Math.floor(codesMax / rows / tile) * tile);
  for (let row = 0; row < inputs; row += step) {
    const inputsOf = { ...part, row, rows: Math.min(step, inputs - row) };
    const codes = await (matrix.along === "inputs" ? codesDown(matrix, inputsOf) : codesAcross(matrix, matrix.qweight, inputsOf, 0));
    fill(values, { codes, zeros, groupScales, groupOf }, inputsOf, inputs);
  }
  const stored = { form: "f32", bytes: bytesOf(values), shape: [outputs, inputs], first: first * inputs } as const;
  return checkedRows(matrix.qweight.path, `${matrix.name}.weight`, stored);
}

async function partOf({ info, bytes }: RawTensor, { row, rows, column, columns }: Part): Promise<Uint8Array> {
  const [height = 1, width = 1] = info.shape;
  const size = (info.end - info.begin) / height / width;
  if (columns === width) return bytes(row * width * size, rows * width * size);
  const out = new Uint8Array(rows * columns * size);
  for (let i = 0; i < rows; i++) out.set(await bytes(((row + i) * width + column) * size, columns * size), i * columns * size);
  return out;
}

const wordsIn = (bytes: Uint8Array): Int32Array => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

/** The values of a part [rows, columns] whose words hold outputs. */
async function codesAcross({ bits, places }: Matrix, tensor: RawTensor, part: Part, plus: number): Promise<Uint8Array> {
  const { row, rows, column, columns } = part;
  const [per, mask] = [places.length, 2 ** bits - 1];
  const begin = Math.floor(column / per);
  const width = Math.ceil((column + columns) / per) - begin;
  const words = wordsIn(await partOf(tensor, { row, rows, column: begin, columns: width }));
  const codes = new Uint8Array(rows * columns);
  for (let i = 0; i < columns; i++) {
    const [at, shift] = [Math.floor((column + i) / per) - begin, (places[(column + i) % per] as number) * bits];
    for (let line = 0; line < rows; line++) codes[line * columns + i] = (((words[line * width + at] as number) + plus) >>> shift) & mask;
  }
  return codes;
}

/** The values of a part [rows, columns] whose words hold inputs. */
async function codesDown({ bits, qweight }: Matrix, { row, rows, column, columns }: Part): Promise<Uint8Array> {
  const [per, mask] = [32 / bits, 2 ** bits - 1];
  const words = wordsIn(await partOf(qweight, { row: row / per, rows: rows / per, column, columns }));
  const codes = new Uint8Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    const [from, shift] = [Math.floor(i / per) * columns, (i % per) * bits];
    for (let j = 0; j < columns; j++) codes[i * columns + j] = ((words[from + j] as number) >>> shift) & mask;
  }
  return codes;
}

/** The group of each input. */
async function groupsIn({ name, gIdx, inputs, groups, groupSize, descAct }: Matrix): Promise<Int32Array> {
  const found = gIdx && wordsIn(await gIdx.bytes(0, inputs * 4));
  // Old writers left it zero where groups follow one another.
  if (gIdx === undefined || found === undefined || (!descAct && found.every((group) => group === 0)))
    return Int32Array.from({ length: inputs }, (_, i) => (groupSize === -1 ? 0 : Math.floor(i / groupSize)));
  const strange = found.findIndex((group) => group < 0 || group >= groups);
  if (strange < 0) return found;
  const message = `tensor "${name}.g_idx" has group ${found[strange]} at [${strange}], and "${name}.scales" has groups 0 to ${groups - 1}; download or export the model again`;
  throw new AppError(`${gIdx.path}: ${message}`, { code: "BadSafetensors" });
}

interface Codes {
  readonly codes: Uint8Array;
  readonly zeros: Uint8Array;
  readonly groupScales: Float32Array;
  readonly groupOf: Int32Array;
}

/** Writes [inputs, outputs] as columns of [outputs, inputs]. */
function fill(values: Float32Array, { codes, zeros, groupScales, groupOf }: Codes, part: Part, inputs: number): void {
  const { row, rows, columns } = part;
  for (let begin = 0; begin < rows; begin += tile) {
    const end = Math.min(begin + tile, rows);
    for (let output = 0; output < columns; output++) {
      for (let i = begin; i < end; i++) {
        const at = (groupOf[row + i] as number) * columns + output;
        values[output * inputs + row + i] = ((codes[i * columns + output] as number) - (zeros[at] as number)) * (groupScales[at] as number);
      }
    }
  }
}
