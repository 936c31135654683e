// Linear layers as GPTQ and AWQ pack them, with the floats that they mean; and folders of tensors of any dtype.
import { mkdtemp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bytesOf, f16Bits } from "../../../runtime/weights/floats.ts";

export type Raw = readonly [dtype: string, shape: readonly number[], bytes: Uint8Array];
export type RawTensors = Readonly<Record<string, Raw>>;

/** A folder with one safetensors file, and JSON files beside it. */
export async function rawFolder(root: string, tensors: RawTensors, beside: Readonly<Record<string, unknown>> = {}): Promise<string> {
  let at = 0;
  const entries = Object.entries(tensors).map(([name, [dtype, shape, bytes]]) => {
    const begin = at;
    at += bytes.length;
    return [name, { dtype, shape, data_offsets: [begin, at] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const out = await mkdtemp(join(root, "model-"));
  await writeFile(join(out, "model.safetensors"), Buffer.concat([length, header, ...Object.values(tensors).map(([, , bytes]) => bytes)]));
  for (const [name, json] of Object.entries(beside)) await writeFile(join(out, name), JSON.stringify(json));
  return out;
}

export interface Quantizing {
  readonly method: "gptq" | "awq";
  readonly bits: 4 | 8;
  /** -1: the whole column. */
  readonly groupSize: number;
  readonly format: "gptq" | "gptq_v2" | "gemm";
  /** Inputs are in groups of another order. */
  readonly permuted?: boolean;
  readonly scales?: "F16" | "BF16" | "F32";
}

/** The config.json that says so. */
export const configOf = ({ method, format, bits, groupSize, permuted = false }: Quantizing, more?: object) => {
  const field = method === "gptq" ? "checkpoint_format" : "version";
  return { quantization_config: { quant_method: method, bits, group_size: groupSize, desc_act: permuted, [field]: format, ...more } };
};

export const i32 = (values: Iterable<number>): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);

const scaleBytes = {
  F16: (values: Float32Array) => new Uint8Array(Uint16Array.from(values, f16Bits).buffer),
  BF16: (values: Float32Array) => new Uint8Array(Uint16Array.from(new Uint32Array(values.slice().buffer), (bits) => bits >>> 16).buffer),
  F32: (values: Float32Array) => bytesOf(values),
};

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const joined = (order: readonly number[], bits: number, value: (k: number) => number): number =>
  order.reduce((word, k, i) => (word | (value(k) << (i * bits))) >>> 0, 0);

/** Values and zeros cover all codes, zeros less one those that the borrow of a whole word makes. */
export function quantizedLinear(name: string, [outputs, inputs]: readonly [number, number], how: Quantizing) {
  const { method, bits, groupSize, permuted, format } = how;
  const per = 32 / bits;
  const groups = groupSize === -1 ? 1 : Math.ceil(inputs / groupSize);
  const groupOf = range(inputs).map((i) => Math.floor((permuted ? (i * 7) % inputs : i) / (groupSize === -1 ? inputs : groupSize)));
  const seed = [...name].reduce((sum, char) => sum + char.charCodeAt(0), 0);
  const code = (i: number, o: number): number => (i * 37 + o * 11 + ((i * o) >> 2) + seed) % 2 ** bits;
  const zero = (g: number, o: number): number => (g * 5 + o * 3 + seed) % 2 ** bits;
  const scales = Float32Array.from({ length: groups * outputs }, (_, i) => (1 + ((i * 29 + seed) % 127)) / 1024);
  const order = method === "awq" ? [0, 2, 4, 6, 1, 3, 5, 7] : range(per);
  const across = (value: typeof code, rows: number): number[] =>
    range(rows).flatMap((row) => range(outputs / per).map((word) => joined(order, bits, (k) => value(row, word * per + k))));
  const down = (): number[] =>
    range(inputs / per).flatMap((word) => range(outputs).map((o) => joined(order, bits, (k) => code(word * per + k, o))));
  const ones = joined(order, bits, () => 1);
  const zeros = across(zero, groups).map((word) => (format === "gptq" ? (word - ones) >>> 0 : word));
  const type = how.scales ?? "F16";
  const tensors: Record<string, Raw> = {
    [`${name}.qweight`]:
      method === "awq" ? ["I32", [inputs, outputs / per], i32(across(code, inputs))] : ["I32", [inputs / per, outputs], i32(down())],
    [`${name}.qzeros`]: ["I32", [groups, outputs / per], i32(zeros)],
    [`${name}.scales`]: [type, [groups, outputs], scaleBytes[type](scales)],
    ...(method === "gptq" ? { [`${name}.g_idx`]: ["I32", [inputs], i32(groupOf)] } : {}),
  };
  const values = Float32Array.from({ length: outputs * inputs }, (_, at) => {
    const [o, i] = [Math.floor(at / inputs), at % inputs];
    const g = groupOf[i]!;
    return (code(i, o) - zero(g, o)) * scales[g * outputs + o]!;
  });
  return { tensors, values };
}
