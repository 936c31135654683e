// DeepSeek's fp8 (E4M3) with a scale per block of 128 x 128: `NAME` and `NAME_scale_inv`, read exactly as f32.
import { misshaped, type RawTensor, type Rule } from "./packed-rule.ts";
import { widenTensor } from "./safetensors.ts";
import type { TensorView } from "./tensor-view.ts";
import { checkWeights } from "./weight-check.ts";

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
    async rows({ first, rows }) {
      const scales = widenTensor(scale.info, await scale.bytes(0, scale.info.end - scale.info.begin));
      const bytes = await tensor.bytes(first * k, rows * k);
      const values = new Float32Array(rows * k);
      for (let row = 0; row < rows; row++) {
        const from = Math.floor((first + row) / block) * across;
        for (let i = 0; i < k; i++)
          values[row * k + i] = (e4m3[bytes[row * k + i] as number] as number) * (scales[from + Math.floor(i / block)] as number);
      }
      checkWeights(tensor.path, `tensor "${name}"`, { shape, data: values, first: first * k });
      return { form: "f32", bytes: new Uint8Array(values.buffer), values };
    },
  };
}

export const fp8Blocks: Rule = (name, raw) => {
  const [tensor, scale] = [raw.get(name), raw.get(`${name}${suffix}`)];
  if (tensor?.info.dtype !== "F8_E4M3" || scale?.info.dtype !== "F32") return undefined;
  return { takes: [name, `${name}${suffix}`], views: [[name, viewOf(name, tensor, scale)]] };
};
