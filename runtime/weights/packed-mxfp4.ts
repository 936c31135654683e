// gpt-oss's MXFP4 experts: `NAME_blocks` [experts, rows, K/32, 16] and `NAME_scales` [experts, rows, K/32], read losslessly as ggml's
// mxfp4. Rows of gate and up alternate in one tensor.
import { interleavedMatrices } from "./packed-interleaved.ts";
import { expertsOf, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import { widenStored } from "./stored.ts";
import type { TensorView } from "./tensor-view.ts";
import { checkWeights } from "./weight-check.ts";

const blockValues = 32;
const half = blockValues / 2;
const blockBytes = half + 1;

const packedName = /^(.*\.experts)\.(gate_up_proj|down_proj)_blocks$/;

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

interface Slice {
  readonly name: string;
  readonly expert: number;
  readonly each: number;
  readonly of: number;
}

function matrixView(blocks: RawTensor, scales: RawTensor, { name, expert, each, of }: Slice): TensorView {
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
      const values = widenStored("mxfp4", bytes);
      checkWeights(blocks.path, `tensor "${name}"`, { shape, data: values, first: first * across * blockValues });
      return { form: "mxfp4", bytes, values };
    },
  };
}

function checkShapes(stem: string, blocks: RawTensor, scales: RawTensor, of: number): void {
  const [experts, rows = 0, across] = blocks.info.shape;
  const want = [experts, rows, across, half];
  if (blocks.info.shape.join() !== want.join() || rows % of !== 0)
    throw misshaped(blocks, `${stem}_blocks`, `MXFP4 is [experts, rows, K/${blockValues}, ${half}]`);
  if (scales.info.shape.join() !== [experts, rows, across].join())
    throw misshaped(scales, `${stem}_scales`, `its blocks are [${blocks.info.shape.join(", ")}]`);
}

export const mxfp4Experts: Rule = (name, raw) => {
  const [, at = "", stem = ""] = packedName.exec(name) ?? [];
  const names = interleavedMatrices[stem] ?? [];
  const stack = `${at}.${stem}`;
  const [blocks, scales] = [raw.get(name), raw.get(`${stack}_scales`)];
  if (blocks?.info.dtype !== "U8" || scales?.info.dtype !== "U8") return undefined;
  checkShapes(stack, blocks, scales, names.length);
  const views = Array.from({ length: expertsOf(blocks, name) }, (_, expert) =>
    names.map((matrix, each) => {
      const as = `${at}.${expert}.${matrix}.weight`;
      return [as, matrixView(blocks, scales, { name: as, expert, each, of: names.length })] as const;
    }),
  ).flat();
  return { takes: [name, `${stack}_scales`], views };
};
