// Presents packed safetensors (fp8 blocks, MXFP4, GPTQ, AWQ, stacked experts) as plain matrices; other tensors are read as they are.
import { AppError } from "../../crds/common.ts";
import { bytesOf } from "./floats.ts";
import { awq } from "./packed-awq.ts";
import { expertRules } from "./packed-experts.ts";
import { gptq } from "./packed-gptq.ts";
import { isPlain, misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import type { Quantization } from "./quantization.ts";
import { widenTensor } from "./safetensors.ts";
import { checkedRows, type TensorView } from "./tensor-view.ts";

export type { RawTensor };

/** Stacks name many tensors in a few bytes. The largest known models have 100,000. */
const viewsMax = 1_000_000;

/** DeepSeek's fp8 has a scale per block of 128 x 128, `NAME_scale_inv`, and is read exactly as f32. */
const block = 128;
const suffix = "_scale_inv";

/** E4M3: exponent bias 7, no infinity. */
const e4m3 = Float32Array.from({ length: 256 }, (_, bits) => {
  const [exponent, mantissa] = [(bits >> 3) & 15, bits & 7];
  const size = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
  return (bits & 127) === 127 ? Number.NaN : bits & 128 ? -size : size;
});

function viewOf(name: string, tensor: RawTensor, scale: RawTensor): TensorView {
  const { shape } = tensor.info;
  const [n = 0, k = 0] = shape;
  const across = Math.ceil(k / block);
  const want = [Math.ceil(n / block), across];
  if (shape.length !== 2 || scale.info.shape.join() !== want.join())
    throw misshaped(scale, `${name}${suffix}`, `blocks of ${block} x ${block} of [${shape.join(", ")}] have [${want.join(", ")}] scales`);
  return {
    shape,
    form: "f32",
    packed: true,
    async rows({ first, rows }) {
      const scales = widenTensor(scale.info, await scale.bytes(0, scale.info.end - scale.info.begin));
      const bytes = await tensor.bytes(first * k, rows * k);
      const values = new Float32Array(rows * k);
      for (let row = 0; row < rows; row++) {
        const from = Math.floor((first + row) / block) * across;
        for (let i = 0; i < k; i++)
          values[row * k + i] = (e4m3[bytes[row * k + i] as number] as number) * (scales[from + Math.floor(i / block)] as number);
      }
      return checkedRows(tensor.path, name, { form: "f32", bytes: bytesOf(values), shape, first: first * k });
    },
  };
}

const fp8Blocks: Rule = (name, raw) => {
  const [tensor, scale] = [raw.get(name), raw.get(`${name}${suffix}`)];
  if (tensor?.info.dtype !== "F8_E4M3" || scale?.info.dtype !== "F32") return undefined;
  return { takes: [name, `${name}${suffix}`], views: [[name, viewOf(name, tensor, scale)]] };
};

/** The first matching rule takes a tensor. */
const rules: readonly Rule[] = [fp8Blocks, gptq, awq, ...expertRules];

/** Throws `UnsupportedDtype` for parts that no rule takes. */
export function unpacked(raw: ReadonlyMap<string, RawTensor>, quantization?: Quantization): ReadonlyMap<string, TensorView> {
  const views = new Map<string, TensorView>();
  const taken = new Set<string>();
  for (const rule of rules)
    for (const name of raw.keys()) {
      const found = taken.has(name) ? undefined : rule(name, raw, quantization);
      if (!found) continue;
      for (const part of found.takes) taken.add(part);
      for (const [as, view] of found.views) add(raw, views, as, view);
    }
  for (const [name, tensor] of raw) {
    if (taken.has(name)) continue;
    if (!isPlain(tensor.info)) {
      throw new AppError(
        `${tensor.path}: tensor "${name}" has dtype ${tensor.info.dtype} and no scales that are known beside it; supported are F32, F16, BF16, F8_E4M3 with "${name}_scale_inv" of 128 x 128 blocks, MXFP4 blocks with scales, and I32 of GPTQ and AWQ`,
        { code: "UnsupportedDtype" },
      );
    }
    add(raw, views, name, tensor.view());
  }
  return views;
}

function add(raw: ReadonlyMap<string, RawTensor>, views: Map<string, TensorView>, name: string, view: TensorView): void {
  if (views.size >= viewsMax)
    throw new AppError(`${[...raw.values()][0]?.path}: has more than ${viewsMax} matrices`, { code: "BadSafetensors" });
  if (views.has(name))
    throw new AppError(`${[...raw.values()][0]?.path}: has tensor "${name}" twice, packed and plain`, { code: "BadSafetensors" });
  views.set(name, view);
}
