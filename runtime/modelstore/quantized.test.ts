// GPTQ and AWQ checkpoints of a whole model are imported as their own floats are.
import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { changedCheckpoint } from "../../test/kit/models/changed-checkpoint.ts";
import { configOf, type Quantizing, quantizedLinear, type Raw, type RawTensors, rawFolder } from "../../test/kit/models/quantized.ts";
import { bytesOf } from "../weights/floats.ts";
import { importMoe } from "./import-moe.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-quantized-"));
after(() => rm(dir, { recursive: true }));
const tiny = join(import.meta.dirname, "../../test/golden/tiny-f32");
const importing = (from: string) => importMoe({ from, out: `${from}-store`, codecs: ["q4_0", "f32"], overwrite: false }, () => undefined);

/** A Mixtral with packed tensors, and the same one of floats. */
async function both(pack: (name: string, shape: [number, number]) => ReturnType<typeof quantizedLinear>, said: object) {
  const tensors: Record<string, Raw> = {};
  const floats = await changedCheckpoint(tiny, dir, (all) => {
    for (const [name, { shape, data }] of all) {
      const packed = /self_attn|experts/.test(name) ? pack(name.replace(/\.weight$/, ""), shape as [number, number]) : undefined;
      Object.assign(tensors, packed?.tensors ?? { [name]: ["F32", shape, bytesOf(data)] });
      if (packed) all.set(name, { shape, data: packed.values });
    }
  });
  const config = { ...JSON.parse(await readFile(join(tiny, "config.json"), "utf8")), ...said };
  const folder = async (more: RawTensors = {}): Promise<string> => {
    const made = await rawFolder(dir, { ...tensors, ...more }, { "config.json": config });
    await cp(tiny, made, { recursive: true, force: false });
    return made;
  };
  return { floats, folder };
}

const formats: Readonly<Record<string, Quantizing>> = {
  "GPTQ of 4 bits by activation order": { method: "gptq", bits: 4, groupSize: 32, format: "gptq", permuted: true },
  "GPTQ of 8 bits": { method: "gptq", bits: 8, groupSize: -1, format: "gptq_v2" },
  AWQ: { method: "awq", bits: 4, groupSize: 32, format: "gemm" },
};
for (const [sentence, how] of Object.entries(formats)) {
  test(`${sentence}: a Mixtral is imported to the bytes of its own floats, also with biases of zeros; others are refused`, async () => {
    const said = configOf(how, { modules_to_not_convert: ["gate", "lm_head"] });
    const { floats, folder } = await both((module, shape) => quantizedLinear(module, shape, how), said);
    const want = await importing(floats);
    assert.deepEqual(await importing(await folder()), want);
    const name = "model.layers.1.self_attn.q_proj.bias";
    const bias = (value: number): RawTensors => ({ [name]: ["F32", [64], bytesOf(new Float32Array(64).fill(value))] });
    assert.deepEqual(await importing(await folder(bias(0))), want);
    await assert.rejects(importing(await folder(bias(1))), /q_proj\.bias" belongs to no part of MixtralForCausalLM/);
  });
}

test("blocks of fp8 under the configuration that says so are imported as their floats are", async () => {
  const fp8 = (module: string, [rows, columns]: readonly [number, number]) => {
    const weight: Raw = ["F8_E4M3", [rows, columns], new Uint8Array(rows * columns).fill(0x38)];
    const scale: Raw = ["F32", [1, 1], bytesOf(Float32Array.of(0.25))];
    const values = new Float32Array(rows * columns).fill(0.25);
    return { tensors: { [`${module}.weight`]: weight, [`${module}.weight_scale_inv`]: scale }, values };
  };
  const { floats, folder } = await both(fp8, { quantization_config: { quant_method: "fp8" } });
  assert.deepEqual(await importing(await folder()), await importing(floats));
});
