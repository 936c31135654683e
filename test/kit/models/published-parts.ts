// The parts that published GGUF layouts are made of: random blocks of a type, and tensors beside what they mean in Hugging Face's names and
// row order. The layouts themselves: published-gguf.ts.
import { ggmlFormats, isGgmlForm } from "../../../runtime/kernels/ggml/index.ts";
import { gaussian, uniform } from "../../../runtime/kernels/random.ts";
import { bf16Bits, bytesOf, f16Bits } from "../../../runtime/weights/floats.ts";
import { type StoredForm, storedBytes } from "../../../runtime/weights/stored.ts";
import type { GgufFloat, GgufMeta } from "./gguf-writer.ts";

const deviation = 0.05;
/** Byte offsets of the halves that scale a block, and their values: ordinary weights come out. */
const scales: Partial<Record<StoredForm, Readonly<Record<number, number>>>> = {
  q8_0: { 0: deviation / 64 },
  q4_0: { 0: deviation / 4 },
  q4_1: { 0: deviation / 4, 2: -2 * deviation },
  q5_0: { 0: deviation / 8 },
  q5_1: { 0: deviation / 8, 2: -2 * deviation },
  iq4_nl: { 0: deviation / 64 },
  iq4_xs: { 0: deviation / 1000 },
  q2_K: { 80: deviation / 8, 82: deviation / 8 },
  q3_K: { 108: deviation / 32 },
  q4_K: { 0: deviation / 250, 2: deviation / 32 },
  q5_K: { 0: deviation / 500, 2: deviation / 32 },
  q6_K: { 208: deviation / 1500 },
  iq1_s: { 0: deviation / 8 },
  iq2_xxs: { 0: deviation / 80 },
  iq2_xs: { 0: deviation / 80 },
  iq2_s: { 0: deviation / 80 },
  iq3_xxs: { 0: deviation / 120 },
  iq3_s: { 0: deviation / 120 },
  tq1_0: { 52: deviation },
  tq2_0: { 64: deviation },
  q1_0: { 0: deviation },
};

const halfBytes = ({ buffer }: Uint16Array): Uint8Array => new Uint8Array(buffer);

/** A half, four bits of it at the top of each of four words. */
function halfInWords(bytes: Uint8Array, at: number, value: number): void {
  const half = f16Bits(value);
  for (let word = 0; word < 4; word++)
    bytes[at + 2 * word + 1] = ((bytes[at + 2 * word + 1] as number) & 15) | (((half >> (4 * word)) & 15) << 4);
}

/** Random blocks of a type. */
export function stored(form: StoredForm, values: number, seed: number): Uint8Array {
  const floats = gaussian(seed, values, deviation);
  if (!isGgmlForm(form)) return bytesOf(floats);
  if (form === "f16" || form === "bf16") return halfBytes(Uint16Array.from(floats, form === "f16" ? f16Bits : bf16Bits));
  const next = uniform(seed);
  const bytes = Uint8Array.from({ length: storedBytes(form, values) }, () => 256 * next());
  const view = new DataView(bytes.buffer) as DataView & { setFloat16(at: number, value: number, little: boolean): void };
  for (let at = 0; at < bytes.length; at += ggmlFormats[form].bytes) {
    for (const [offset, scale] of Object.entries(scales[form] ?? {})) view.setFloat16(at + Number(offset), scale, true);
    if (form === "mxfp4") bytes[at] = 121;
    if (form === "nvfp4") for (let part = 0; part < 4; part++) bytes[at + part] = 2 + part;
    if (form === "iq1_m") halfInWords(bytes, at + 48, deviation / 8);
  }
  return bytes;
}

export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}
type ToHf = (values: Float32Array) => Readonly<Record<string, Tensor>>;

interface Part {
  /** GGUF's name. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly form: StoredForm;
  /** The tensors of Hugging Face that it is; given with all values of the layer where one alone is none. */
  readonly hf: ToHf;
}

export interface Published {
  readonly metadata: Readonly<Record<string, GgufMeta | GgufFloat>>;
  readonly parts: readonly Part[];
  /** config.json as it is published beside the safetensors. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Tensors of Hugging Face that come from several of GGUF. */
  readonly joined?: (values: ReadonlyMap<string, Float32Array>) => Readonly<Record<string, Tensor>>;
}

export const whole = (name: string, hf: string, shape: readonly number[], form: StoredForm = "f32"): Part => ({
  ...{ name, shape, form },
  hf: (values) => ({ [hf]: { shape, values } }),
});

/** Rows of queries or keys whose rotary pairs are next to each other, as llama's are. */
export const pairs = (name: string, hf: string, [rows = 0, columns = 0]: readonly number[], heads: number, form: StoredForm): Part => ({
  ...{ name, shape: [rows, columns], form },
  hf(values) {
    const [out, each] = [new Float32Array(values.length), rows / heads];
    for (let row = 0; row < rows; row++) {
      const within = row % each;
      const to = row - within + (within % 2) * (each / 2) + Math.floor(within / 2);
      out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
    }
    return { [hf]: { shape: [rows, columns], values: out } };
  },
});

export const stack = (name: string, hf: (expert: number) => string, shape: readonly number[], form: StoredForm = "f32"): Part => ({
  ...{ name, shape, form },
  hf(values) {
    const [experts = 1, ...rest] = shape;
    const each = values.length / experts;
    return Object.fromEntries(
      Array.from({ length: experts }, (_, e) => [hf(e), { shape: rest, values: values.subarray(e * each, (e + 1) * each) }] as const),
    );
  },
});

export const nothing: ToHf = () => ({});
export const vocab = 320;
export const layersOf = (count: number, of: (layer: number, blk: string, hf: string) => readonly Part[]): readonly Part[] =>
  Array.from({ length: count }, (_, layer) => of(layer, `blk.${layer}`, `model.layers.${layer}`)).flat();
/** Numbers that llama.cpp reads as floats alone. */
const floats = /(freq_base|epsilon|factor|multiplier|weights_scale)$/;
export const prefixed = (architecture: string, values: Readonly<Record<string, GgufMeta>>): Published["metadata"] => ({
  "general.architecture": architecture,
  ...Object.fromEntries(
    Object.entries(values).map(([key, value]) => [`${architecture}.${key}`, floats.test(key) ? { f32: Number(value) } : value]),
  ),
});
export const ends = (hidden: number, table: StoredForm, head: StoredForm): readonly Part[] => [
  whole("token_embd.weight", "model.embed_tokens.weight", [vocab, hidden], table),
  whole("output_norm.weight", "model.norm.weight", [hidden]),
  whole("output.weight", "lm_head.weight", [vocab, hidden], head),
];
