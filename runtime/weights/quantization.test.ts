// GPTQ and AWQ tensors: what their words mean in every layout and in any rows, and what is refused of tensors and configurations.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { configOf, i32, type Quantizing, quantizedLinear, type Raw, type RawTensors, rawFolder } from "../../test/kit/models/quantized.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { bytesOf } from "./floats.ts";
import { unpacked } from "./packed.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-quantization-"));
after(() => rm(dir, { recursive: true }));

const gptq: Quantizing = { method: "gptq", bits: 4, groupSize: 8, format: "gptq" };
const awq: Quantizing = { method: "awq", bits: 4, groupSize: 8, format: "gemm" };
const saying = (how: Quantizing, more?: object) => ({ "config.json": configOf(how, more) });

/** What a folder of these tensors holds as "a.weight". */
async function read(tensors: RawTensors, beside: Readonly<Record<string, unknown>>): Promise<Float32Array> {
  const checkpoint = await openCheckpoint(await rawFolder(dir, tensors, beside));
  try {
    assert.deepEqual([checkpoint.form("a.weight"), checkpoint.packed], ["f32", true]);
    return await checkpoint.read("a.weight");
  } finally {
    await checkpoint.close();
  }
}

const scales = Float32Array.of(1, 2, 4, 8, 0.5, 0.25, 0.125, 3);
const parts = (shape: readonly number[], words: readonly number[], zeros: number): RawTensors => ({
  "a.qweight": ["I32", shape, i32(words)],
  "a.qzeros": ["I32", [1, 1], i32([zeros])],
  "a.scales": ["F32", [1, 8], bytesOf(scales)],
});

test("words by hand: GPTQ's hold inputs and zeros less one, in its second format zeros as they are; AWQ's hold even outputs first", async () => {
  const down = (zeros: number) => parts([1, 8], Array(8).fill(0x76543210), zeros);
  const want = (zero: (o: number) => number) => Float32Array.from({ length: 64 }, (_, i) => ((i % 8) - zero(i >> 3)) * scales[i >> 3]!);
  const second = saying({ ...gptq, format: "gptq_v2" });
  const [eight, seven, unlike] = [want(() => 8), want(() => 7), want((o) => o)];
  assert.deepEqual(await read(down(0x77777777), saying(gptq)), eight);
  assert.deepEqual(await read(down(0x77777777), second), seven);
  assert.deepEqual(await read(down(0x76543210), second), unlike);
  assert.deepEqual(await read(down(0x76543210 - 0x11111111), saying(gptq)), unlike, "a zero of 0 borrows");
  const older = { "config.json": {}, "quantize_config.json": { bits: 4, group_size: -1, desc_act: false, sym: true } };
  assert.deepEqual(await read(down(0x65432100 - 1), older), unlike);
  const across = parts([3, 1], [0x75316420, 0, 0xffffffff], 0x75316420);
  const olderAwq = { "config.json": {}, "quant_config.json": { zero_point: true, q_group_size: -1, w_bit: 4, version: "GEMM" } };
  const rows = [...scales].flatMap((scale, o) => [0, (0 - o) * scale, (15 - o) * scale]);
  for (const said of [saying({ ...awq, groupSize: -1 }), olderAwq]) assert.deepEqual(await read(across, said), Float32Array.from(rows));
});

const layouts: Readonly<Record<string, Quantizing>> = {
  "GPTQ of 4 bits": gptq,
  "GPTQ of its second format": { ...gptq, format: "gptq_v2", scales: "BF16" },
  "GPTQ in one group": { ...gptq, groupSize: -1 },
  "GPTQ by activation order": { ...gptq, permuted: true, scales: "F32" },
  "GPTQ of 8 bits": { ...gptq, bits: 8, groupSize: 16 },
  "GPTQ whose last group is smaller": { ...gptq, groupSize: 32 },
  AWQ: awq,
  "AWQ in one group": { ...awq, groupSize: -1 },
};
for (const [sentence, how] of Object.entries(layouts)) {
  test(`${sentence} is (value - zero) x scale, whole and in parts of any rows`, async () => {
    const inputs = 72;
    for (const outputs of how === gptq || how === awq ? [24, 18_000] : [24]) {
      const { tensors, values } = quantizedLinear("a", [outputs, inputs], how);
      const raw = Object.entries(tensors).map(([name, [dtype, shape, bytes]]) => {
        const info = { dtype: dtype as "I32", shape, begin: 0, end: bytes.length };
        const part = async (from: number, length: number) => bytes.slice(from, from + length);
        return [name, { path: "file", info, bytes: part, view: () => assert.fail(name) }] as const;
      });
      const view = unpacked(new Map(raw), { ...how, descAct: how.permuted ?? false }).get("a.weight")!;
      assert.deepEqual(view.shape, [outputs, inputs]);
      for (const first of [0, 3, 16])
        for (const rows of [1, 8, outputs - first]) {
          const want = bytesOf(values.subarray(first * inputs, (first + rows) * inputs));
          assert.ok(Buffer.from((await view.rows({ first, rows })).bytes).equals(want), `${rows} from ${first} of ${outputs}`);
        }
    }
  });
}

/** The pattern is of the code and the message. */
const refused = (read: Promise<unknown>, want: RegExp) =>
  assert.rejects(read, (error) => {
    assert.ok(error instanceof AppError, String(error));
    assert.match(`${error.code}: ${error.message}`, want);
    return true;
  });
const { "a.g_idx": order, ...unordered } = quantizedLinear("a", [8, 16], gptq).tensors;
const zeros = (dtype: "I32" | "F16", ...shape: number[]): Raw => {
  const bytes = { I32: 4, F16: 2 }[dtype];
  return [dtype, shape, new Uint8Array(shape.reduce((a, b) => a * b, bytes))];
};
const groups = (last: number): Raw => ["I32", [16], i32([...Array(15).fill(0), last])];
const tensorsRefused: Readonly<Record<string, readonly [name: string, tensor: Raw | undefined, want: RegExp]>> = {
  "no scales": ["a.scales", undefined, /^MissingTensor.*"a\.scales" is missing, and "a\.qweight" needs it in F16.*download/],
  "zeros that are floats": ["a.qzeros", zeros("F16", 2, 1), /^UnsupportedDtype.*"a\.qzeros" has dtype F16, .* needs it in I32/],
  "scales in words": ["a.scales", zeros("I32", 2, 8), /^UnsupportedDtype.*"a\.scales" has dtype I32/],
  "three dimensions": ["a.qweight", zeros("I32", 2, 2, 4), /^ShapeMismatch.*\[2, 2, 4\], and gptq of 4 bits is \[in \/ 8, out \/ 1\]/],
  "no inputs": ["a.qweight", zeros("I32", 0, 8), /^ShapeMismatch.*"a\.qweight" is \[0, 8\]/],
  "outputs that fill no word": ["a.qweight", zeros("I32", 2, 12), /^ShapeMismatch.*out a multiple of 8/],
  "other groups": ["a.scales", zeros("F16", 1, 8), /^ShapeMismatch.*\[8, 16\] in groups of 8 has \[2, 8\]; correct group_size/],
  "zeros of another width": ["a.qzeros", zeros("I32", 2, 2), /^ShapeMismatch.*"a\.qzeros" is \[2, 2\]/],
  "an order of fewer inputs": ["a.g_idx", zeros("I32", 8), /^ShapeMismatch.*"a\.g_idx" is \[8\]/],
  "a group that is not there": ["a.g_idx", groups(2), /^BadSafetensors.*"a\.g_idx" has group 2 at \[15\], .* groups 0 to 1/],
  "a group below none": ["a.g_idx", groups(-1), /^BadSafetensors.*has group -1 at \[15\]/],
  "scales of no number": ["a.scales", ["F16", [2, 8], new Uint8Array(32).fill(0x7e)], /^UnusableWeight.*"a\.weight" has NaN at \[0, 0\]/],
  "the matrix twice": ["a.weight", zeros("F16", 8, 16), /^BadSafetensors.*"a\.weight" twice/],
  "words that belong to nothing": ["b", zeros("I32", 1), /^UnsupportedDtype.*"b" has dtype I32/],
};
for (const [sentence, [name, tensor, want]] of Object.entries(tensorsRefused))
  test(`${sentence}: refused by tensor`, () => {
    const { [name]: _old, ...rest }: Record<string, Raw> = { ...unordered, "a.g_idx": order! };
    return refused(read(tensor === undefined ? rest : { ...rest, [name]: tensor }, saying(gptq)), want);
  });

const configsRefused: Readonly<Record<string, readonly [beside: Record<string, unknown>, want: RegExp]>> = {
  "nothing at all": [{}, /^BadModelConfig.*"a\..*" is of words, .* nor quantize_config\.json nor quant_config\.json says/],
  "three bits": [saying(gptq, { bits: 3 }), /config\.json: quantization_config: bits is 3, supported: 4, 8; quantize .* or import it/],
  "AWQ of 8 bits": [saying(awq, { bits: 8 }), /^UnsupportedModel.*bits is 8, supported: 4;/],
  "AWQ gemv": [saying(awq, { version: "GEMV" }), /^UnsupportedModel.*version is "gemv", supported: gemm/],
  "older AWQ of no group size": [{ "quant_config.json": { w_bit: 4 } }, /^BadModelConfig.*quant_config\.json: group_size: /],
  "an older file that is no object": [{ "quantize_config.json": null }, /^BadModelConfig.*quantize_config\.json: bits: /],
  "other bits in some modules": [
    saying(gptq, { dynamic: { "-:lm_head": {}, "+:.*up_proj": { bits: 8 } } }),
    /^UnsupportedModel.*dynamic is "\+:\.\*up_proj", supported: patterns that begin with -:/,
  ],
  "AWQ marlin": [saying(awq, { version: "marlin" }), /^UnsupportedModel.*version is "marlin"/],
  "GPTQ marlin": [saying(gptq, { checkpoint_format: "marlin" }), /checkpoint_format is "marlin", supported: gptq, gptq_v2/],
  "another method": [saying(gptq, { quant_method: "hqq" }), /^UnsupportedModel.*quant_method is "hqq", supported: gptq, awq/],
  "a method named like an object's": [saying(gptq, { quant_method: "constructor" }), /^UnsupportedModel/],
  "groups of none": [saying(gptq, { group_size: 0 }), /^BadModelConfig.*quantization_config: group_size: is 0/],
  "an order that is missing": [saying(gptq, { desc_act: true }), /^MissingTensor.*"a\.g_idx" is missing/],
};
for (const [sentence, [beside, want]] of Object.entries(configsRefused))
  test(`a configuration of ${sentence}: refused by field`, () => refused(read(unordered, beside), want));

test("words of 16 bits are refused by the version that has them, or by tensor where none is said to", async () => {
  const fast: RawTensors = { "a.qweight": ["I16", [2, 16], new Uint8Array(64)], "a.scales": zeros("F16", 2, 8) };
  await refused(read(fast, saying(awq, { version: "gemv_fast" })), /^UnsupportedModel.*version is "gemv_fast", supported: gemm/);
  await refused(read(fast, saying(awq)), /^UnsupportedDtype.*"a\.qweight" has dtype I16, .* needs it in I32/);
  await refused(read({ "a.weight": fast["a.qweight"]! }, saying(awq)), /^UnsupportedDtype.*"a\.weight" has dtype I16/);
});

test("tensors of GPTQ's marlin are refused as that, and an order of zeros means none unless the configuration says that there is one", async () => {
  await refused(read({ "a.B": zeros("I32", 1, 8) }, saying(gptq, { is_marlin_format: true })), /checkpoint_format is "marlin"/);
  const [unset, plain] = [{ ...unordered, "a.g_idx": groups(0) }, await read(unordered, saying(gptq))];
  assert.deepEqual(await read(unset, saying(gptq)), plain);
  assert.notDeepEqual(await read(unset, saying(gptq, { desc_act: true })), plain);
});
