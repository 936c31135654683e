// The bytes that a weight has as a tensor: blocks of ggml as they are, f32 as it is, int4 as q4_1, whose scale and minimum are halves.
import { blockSize, byForm, type WeightData, type WeightForm, type WeightOf } from "../../kernels/weights.ts";
import type { WeightType } from "./types.ts";

/** The type in which a weight of this form is placed. */
export const typeOfForm = (form: WeightForm): WeightType => (form === "int4" ? "q4_1" : form);

export function tensorBytes(weight: WeightData): NodeJS.TypedArray {
  return byForm<NodeJS.TypedArray>(weight, { f32: ({ data }) => data, int4: int4AsQ4_1, ggml: ({ data }) => data });
}

const q4_1Bytes = 20;
const half = blockSize / 2;

/** w = (q - z) * s becomes w = q * d + m; value i of a block shares its byte with value i + 16. */
function int4AsQ4_1({ q, s, z }: WeightOf<"int4">): Uint8Array {
  const out = new Uint8Array(s.length * q4_1Bytes);
  const view = new DataView(out.buffer);
  const level = (block: number, i: number): number => ((q[block * half + (i >> 1)] as number) >> (i % 2 === 0 ? 0 : 4)) & 15;
  for (let block = 0; block < s.length; block++) {
    const at = block * q4_1Bytes;
    const scale = s[block] as number;
    view.setFloat16(at, scale, true);
    view.setFloat16(at + 2, -(z[block] as number) * scale, true);
    for (let i = 0; i < half; i++) out[at + 4 + i] = level(block, i) | (level(block, i + half) << 4);
  }
  return out;
}
