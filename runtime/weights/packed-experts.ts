// Checkpoints that stack the matrices of all experts in one tensor, as the matrices of each expert. Three layouts are known.
import { bytesOf } from "./floats.ts";
import { expertsOf, isPlain, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import { blockOf } from "./stored.ts";
import { checkedRows, rowsOf, type StoredRows, type TensorView } from "./tensor-view.ts";

/** Matrices that share a tensor. */
export const expertMatrices: Readonly<Record<string, readonly string[]>> = {
  gate_up_proj: ["gate_proj", "up_proj"],
  down_proj: ["down_proj"],
};
const stackName = /^(.*\.experts)\.(gate_up_proj|down_proj)(_bias|_blocks)?$/;

/** A matrix in its stack: one of `of` that share the entry of an expert. */
interface Place {
  readonly name: string;
  readonly expert: number;
  readonly each: number;
  readonly of: number;
}

interface Stack {
  readonly tensor: RawTensor;
  readonly name: string;
  /** The name without its suffix. */
  readonly stem: string;
  readonly suffix: string;
  readonly of: number;
}

interface Opened {
  /** Tensors that are consumed with the stack. */
  readonly beside?: readonly string[];
  view(place: Place): TensorView;
}

/** Undefined where the stack has another layout. */
type Layout = (stack: Stack, raw: ReadonlyMap<string, RawTensor>) => Opened | undefined;

const expertRule =
  (layout: Layout): Rule =>
  (name, raw) => {
    const [, at = "", matrix = "", suffix = ""] = stackName.exec(name) ?? [];
    const [names, tensor] = [expertMatrices[matrix], raw.get(name)];
    if (names === undefined || tensor === undefined) return undefined;
    const of = names.length;
    const opened = layout({ tensor, name, stem: `${at}.${matrix}`, suffix, of }, raw);
    if (opened === undefined) return undefined;
    const views = Array.from({ length: expertsOf(tensor, name) }, (_, expert) =>
      names.map((one, each) => {
        const as = `${at}.${expert}.${one}.${suffix === "_bias" ? "bias" : "weight"}`;
        return [as, opened.view({ name: as, expert, each, of })] as const;
      }),
    ).flat();
    return { takes: [name, ...(opened.beside ?? [])], views };
  };

/** transformers 5: [experts, 2 x rows, K], gate above up. */
const stacked: Layout = ({ tensor, name, suffix, of }, raw) => {
  if (suffix !== "" || !isPlain(tensor.info) || raw.has(`${name}_bias`)) return undefined;
  const [, all = 0, columns] = tensor.info.shape;
  if (columns === undefined || all % of !== 0) throw misshaped(tensor, name, "stacks are [experts, rows, K]");
  const rows = all / of;
  const whole = tensor.view();
  const view = ({ expert, each }: Place): TensorView => ({
    shape: [rows, columns],
    form: whole.form,
    rows: (range) => whole.rows({ first: expert * all + each * rows + range.first, rows: range.rows }),
  });
  return { view };
};

/** gpt-oss: outputs of gate and up alternate in [experts, K, 2 x rows] and its bias [experts, 2 x rows], which becomes f32. */
const interleaved: Layout = ({ tensor, name, suffix, of }, raw) => {
  const bias = suffix === "_bias";
  if (suffix === "_blocks" || !isPlain(tensor.info) || !(bias || raw.has(`${name}_bias`))) return undefined;
  const { shape } = tensor.info;
  if (shape.length !== (bias ? 2 : 3) || (shape.at(-1) ?? 0) % of !== 0)
    throw misshaped(tensor, name, bias ? "biases are [experts, rows]" : "stacks beside biases are [experts, K, rows]");
  return { view: bias ? (place) => biasView(tensor, place) : (place) => alternatingView(tensor, place) };
};

function alternatingView(tensor: RawTensor, { expert, each, of }: Place): TensorView {
  const [, columns = 0, outputs = 0] = tensor.info.shape;
  const whole = tensor.view();
  return {
    shape: [outputs / of, columns],
    form: whole.form,
    async rows({ first, rows }) {
      const entry = await whole.rows({ first: expert * columns, rows: columns });
      return picked(entry, rows * columns, (i) => (i % columns) * outputs + (first + Math.floor(i / columns)) * of + each);
    },
  };
}

/** Value `from(i)` of the entry at place i, for any value size. */
function picked(entry: StoredRows, count: number, from: (i: number) => number): StoredRows {
  const size = blockOf(entry.form).bytes;
  const bytes = new Uint8Array(count * size);
  for (let i = 0; i < count; i++) {
    const at = from(i);
    for (let byte = 0; byte < size; byte++) bytes[i * size + byte] = entry.bytes[at * size + byte] as number;
  }
  return rowsOf(entry.form, bytes);
}

function biasView(tensor: RawTensor, { expert, each, of }: Place): TensorView {
  const [, outputs = 0] = tensor.info.shape;
  const whole = tensor.view();
  return {
    shape: [outputs / of],
    form: "f32",
    async rows() {
      const { values } = await whole.rows({ first: expert, rows: 1 });
      return rowsOf("f32", bytesOf(values().filter((_, i) => i % of === each)));
    },
  };
}

const blockValues = 32;
const half = blockValues / 2;
const blockBytes = half + 1;

/**
 * gpt-oss: `NAME_blocks` [experts, rows, K/32, 16] and `NAME_scales` [experts, rows, K/32], read losslessly as ggml's mxfp4. Rows of gate
 * and up alternate.
 */
const mxfp4: Layout = ({ tensor: blocks, stem, suffix, of }, raw) => {
  const scales = raw.get(`${stem}_scales`);
  if (suffix !== "_blocks" || blocks.info.dtype !== "U8" || scales?.info.dtype !== "U8") return undefined;
  checkShapes(stem, blocks, scales, of);
  return { beside: [`${stem}_scales`], view: (place) => mxfp4View(blocks, scales, place) };
};

function checkShapes(stem: string, blocks: RawTensor, scales: RawTensor, of: number): void {
  const [experts, rows = 0, across] = blocks.info.shape;
  const want = [experts, rows, across, half];
  if (blocks.info.shape.join() !== want.join() || rows % of !== 0)
    throw misshaped(blocks, `${stem}_blocks`, `MXFP4 is [experts, rows, K/${blockValues}, ${half}]`);
  if (scales.info.shape.join() !== [experts, rows, across].join())
    throw misshaped(scales, `${stem}_scales`, `its blocks are [${blocks.info.shape.join(", ")}]`);
}

function mxfp4View(blocks: RawTensor, scales: RawTensor, { name, expert, each, of }: Place): TensorView {
  const [, stacked = 0, across = 0] = scales.info.shape;
  const shape = [stacked / of, across * blockValues];
  return {
    shape,
    form: "mxfp4",
    async rows({ first, rows }) {
      const from = expert * stacked + first * of;
      const part = async (tensor: RawTensor, width: number) =>
        everyRow(await tensor.bytes(from * width, rows * of * width), width, each, of);
      const bytes = repack(await part(blocks, across * half), await part(scales, across));
      return checkedRows(blocks.path, name, { form: "mxfp4", bytes, shape, first: first * across * blockValues });
    },
  };
}

/** Byte i of the file holds values 2i (low nibble) and 2i + 1; ggml's holds i and i + 16. */
function repack(blocks: Uint8Array, scales: Uint8Array): Uint8Array {
  const out = new Uint8Array(scales.length * blockBytes);
  const nibble = (block: number, i: number): number => ((blocks[block * half + (i >> 1)] as number) >> (4 * (i & 1))) & 15;
  for (const [block, scale] of scales.entries()) {
    const at = block * blockBytes;
    out[at] = scale;
    for (let i = 0; i < half; i++) out[at + 1 + i] = nibble(block, i) | (nibble(block, half + i) << 4);
  }
  return out;
}

/** Rows `each`, `each + of`, `each + 2 x of` and so on, of `width` bytes. */
function everyRow(bytes: Uint8Array, width: number, each: number, of: number): Uint8Array {
  if (of === 1) return bytes;
  const rows = bytes.length / width / of;
  const out = new Uint8Array(rows * width);
  for (let row = 0; row < rows; row++) out.set(bytes.subarray((row * of + each) * width, (row * of + each + 1) * width), row * width);
  return out;
}

/** Its order decides which layout is tried first. */
export const expertRules: readonly Rule[] = [mxfp4, interleaved, stacked].map(expertRule);
