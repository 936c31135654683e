// Packed safetensors: what fp8 blocks, MXFP4 experts and stacks mean, read in any rows, and what is refused of them.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { type Raw, type RawTensors, rawFolder } from "../../test/kit/models/quantized.ts";
import { asF32, type GgmlWeight } from "../kernels/weights.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { codecFor } from "./codecs/index.ts";
import { bytesOf } from "./floats.ts";
import type { Checkpoint } from "./tensor-view.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-packed-"));
after(() => rm(dir, { recursive: true }));

async function opened<T>(tensors: RawTensors, use: (checkpoint: Checkpoint) => Promise<T>): Promise<T> {
  const checkpoint = await openCheckpoint(await rawFolder(dir, tensors));
  try {
    return await use(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

/** E4M3 by its definition: a number of sixteenths, or of 2^-9 below the smallest exponent. */
function e4m3(byte: number): number {
  const [sign, exponent, mantissa] = [byte >> 7 ? -1 : 1, (byte >> 3) & 15, byte & 7];
  return sign * (exponent === 0 ? mantissa / 512 : ((8 + mantissa) / 8) * 2 ** (exponent - 7));
}

test("fp8 is its values times the scale of their block of 128 x 128, also at the edges and in parts", async () => {
  const [n, k] = [200, 150];
  const bytes = Uint8Array.from({ length: n * k }, (_, i) => ((((i * 37) % 256) & 127) === 127 ? 0 : (i * 37) % 256));
  const scales = Float32Array.of(1, 0.5, 2 ** -7, 3);
  const tensors: Record<string, Raw> = {
    "a.weight": ["F8_E4M3", [n, k], bytes],
    "a.weight_scale_inv": ["F32", [2, 2], bytesOf(scales)],
  };
  await opened(tensors, async (checkpoint) => {
    assert.deepEqual(checkpoint.names, ["a.weight"]);
    assert.equal(checkpoint.form("a.weight"), "f32");
    const values = await checkpoint.read("a.weight");
    for (let i = 0; i < values.length; i++) {
      const [row, column] = [Math.floor(i / k), i % k];
      assert.equal(values[i], Math.fround(e4m3(bytes[i]!) * scales[(row >> 7) * 2 + (column >> 7)]!), `${row}, ${column}`);
    }
    const pieces: Uint8Array[] = [];
    for await (const piece of checkpoint.pieces("a.weight")) pieces.push(piece);
    assert.deepEqual(Buffer.concat(pieces), Buffer.from(bytesOf(values)));
  });
});

test("fp8 without scales, with scales of other blocks or with a NaN is refused by name", async () => {
  const weight: Raw = ["F8_E4M3", [2, 128], new Uint8Array(256).fill(0x38)];
  const open = (tensors: RawTensors) => opened(tensors, (checkpoint) => checkpoint.read("a"));
  await assert.rejects(open({ a: weight }), refusal("UnsupportedDtype", /"a" has dtype F8_E4M3 and no scales that are known/));
  const scales: Raw = ["F32", [2, 1], bytesOf(Float32Array.of(1, 1))];
  await assert.rejects(
    open({ a: weight, a_scale_inv: scales }),
    refusal("ShapeMismatch", /"a_scale_inv" is \[2, 1\], blocks .* have \[1, 1\] scales/),
  );
  const one: Raw = ["F32", [1, 1], bytesOf(Float32Array.of(1))];
  const nan: Raw = ["F8_E4M3", [2, 128], new Uint8Array(256).fill(0x38).fill(0x7f, 130, 131)];
  await assert.rejects(open({ a: nan, a_scale_inv: one }), refusal("UnusableWeight", /tensor "a" has NaN at \[1, 2\]/));
});

const fp4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

test("MXFP4 experts are read as ggml's type without loss, gate and up apart, with their biases, and kept by its codec", async () => {
  const [experts, ffn, hidden] = [3, 32, 64];
  const at = "model.layers.0.mlp.experts";
  const rows = 2 * ffn;
  const blocks = Uint8Array.from({ length: (experts * rows * hidden) / 2 }, (_, i) => (i * 73 + (i >> 7)) % 256);
  const scales = Uint8Array.from({ length: (experts * rows * hidden) / 32 }, (_, i) => 118 + ((i * 5) % 9));
  const biases = Float32Array.from({ length: experts * rows }, (_, i) => i / 64);
  const down: Raw = ["U8", [experts, hidden, 1, 16], new Uint8Array(experts * hidden * 16).fill(0x21)];
  const tensors: Record<string, Raw> = {
    [`${at}.gate_up_proj_blocks`]: ["U8", [experts, rows, hidden / 32, 16], blocks],
    [`${at}.gate_up_proj_scales`]: ["U8", [experts, rows, hidden / 32], scales],
    [`${at}.gate_up_proj_bias`]: ["F32", [experts, rows], bytesOf(biases)],
    [`${at}.down_proj_blocks`]: down,
    [`${at}.down_proj_scales`]: ["U8", [experts, hidden, 1], new Uint8Array(experts * hidden).fill(127)],
  };
  await opened(tensors, async (checkpoint) => {
    assert.equal(checkpoint.names.length, experts * 5);
    assert.deepEqual(checkpoint.shape(`${at}.2.up_proj.weight`), [ffn, hidden]);
    const stored = (await checkpoint.readStored(`${at}.2.up_proj.weight`)) as GgmlWeight;
    assert.equal(stored.form, "mxfp4");
    const values = asF32(stored);
    for (let row = 0; row < ffn; row++)
      for (let i = 0; i < hidden; i++) {
        const from = (2 * rows + 2 * row + 1) * hidden + i; // odd rows of expert 2
        const code = (blocks[from >> 1]! >> (4 * (from & 1))) & 15;
        const value = (code & 8 ? -1 : 1) * fp4[code & 7]! * 2 ** (scales[from >> 5]! - 127);
        assert.ok(values[row * hidden + i] === value, `${row}, ${i}`);
      }
    const shape = [{ name: "w3", shape: [ffn, hidden] }];
    const unit = codecFor("mxfp4").encode({ w3: stored }, shape);
    assert.deepEqual(asF32(codecFor("mxfp4").decode(unit, shape).w3!), values);
    const gate = await checkpoint.read(`${at}.1.gate_proj.bias`);
    assert.deepEqual([gate.length, gate[1]], [ffn, (rows + 2) / 64]);
    assert.deepEqual((await checkpoint.read(`${at}.0.down_proj.weight`)).subarray(0, 4), Float32Array.of(0.5, 1, 0.5, 1));
  });
  const wrong = { ...tensors, [`${at}.down_proj_scales`]: ["U8", [experts, hidden, 2], new Uint8Array(experts * hidden * 2)] as Raw };
  await assert.rejects(
    opened(wrong, async () => undefined),
    refusal("ShapeMismatch", /down_proj_scales" is \[3, 64, 2\], its blocks are/),
  );
  const alone = { [`${at}.down_proj_blocks`]: down };
  await assert.rejects(
    opened(alone, async () => undefined),
    refusal("UnsupportedDtype", /down_proj_blocks" has dtype U8/),
  );
});

test("experts of gpt-oss that are not packed lie as [in, out], gate and up in turn, and keep their type", async () => {
  const [experts, ffn, hidden] = [2, 3, 4];
  const at = "model.layers.0.mlp.experts";
  /** Below 256, so that bf16 has it. */
  const value = (e: number, m: number, r: number, c: number): number => 128 * e + 32 * m + 8 * r + c;
  const values: number[] = [];
  for (let e = 0; e < experts; e++)
    for (let c = 0; c < hidden; c++) for (let r = 0; r < ffn; r++) for (const m of [0, 1]) values.push(value(e, m, r, c));
  const bits = Uint16Array.from(values, (each) => new Uint32Array(Float32Array.of(each).buffer)[0]! >>> 16);
  const tensors: Record<string, Raw> = {
    [`${at}.gate_up_proj`]: ["BF16", [experts, hidden, 2 * ffn], new Uint8Array(bits.buffer)],
    [`${at}.gate_up_proj_bias`]: ["BF16", [experts, 2 * ffn], new Uint8Array(bits.buffer.slice(0, experts * 4 * ffn))],
  };
  await opened(tensors, async (checkpoint) => {
    assert.equal(checkpoint.names.length, experts * 4);
    const up = (await checkpoint.readStored(`${at}.1.up_proj.weight`)) as GgmlWeight;
    assert.deepEqual([up.form, up.shape], ["bf16", [ffn, hidden]]);
    const want = [0, 1, 2].flatMap((r) => [0, 1, 2, 3].map((c) => value(1, 1, r, c)));
    assert.deepEqual([...asF32(up)], want);
    assert.equal(checkpoint.form(`${at}.1.up_proj.bias`), "f32");
  });
  const flat = { ...tensors, [`${at}.gate_up_proj`]: ["BF16", [experts * hidden, 2 * ffn], new Uint8Array(bits.buffer)] as Raw };
  await assert.rejects(
    opened(flat, async () => undefined),
    refusal("ShapeMismatch", /gate_up_proj" is \[8, 6\], stacks beside biases are/),
  );
});

test("experts stacked in one tensor are single matrices, gate above up", async () => {
  const [experts, ffn, hidden] = [4, 3, 5];
  const at = "model.layers.1.mlp.experts";
  const values = Float32Array.from({ length: experts * 2 * ffn * hidden }, (_, i) => i);
  const tensors: Record<string, Raw> = {
    [`${at}.gate_up_proj`]: ["F32", [experts, 2 * ffn, hidden], bytesOf(values)],
    [`${at}.down_proj`]: ["F32", [experts, hidden, ffn], bytesOf(values.subarray(0, experts * hidden * ffn))],
  };
  await opened(tensors, async (checkpoint) => {
    const up = (3 * 2 * ffn + ffn) * hidden;
    assert.deepEqual(await checkpoint.read(`${at}.3.up_proj.weight`), values.slice(up, up + ffn * hidden));
    assert.deepEqual(checkpoint.shape(`${at}.0.down_proj.weight`), [hidden, ffn]);
    assert.equal(checkpoint.names.length, experts * 3);
  });
  const biased = {
    ...tensors,
    [`${at}.gate_up_proj_bias`]: ["F32", [experts, 2 * ffn], bytesOf(values.subarray(0, experts * 2 * ffn))] as Raw,
    [`${at}.gate_up_proj`]: ["F32", [experts, ffn, 2 * hidden], bytesOf(values)] as Raw,
  };
  await opened(biased, async (checkpoint) => {
    assert.deepEqual(checkpoint.shape(`${at}.2.up_proj.weight`), [hidden, ffn], "in gpt-oss's order, [K, rows]");
    assert.deepEqual((await checkpoint.read(`${at}.3.up_proj.bias`)).slice(), Float32Array.of(19, 21, 23));
  });
  const twice = { ...tensors, [`${at}.0.down_proj.weight`]: ["F32", [1], bytesOf(Float32Array.of(1))] as Raw };
  await assert.rejects(
    opened(twice, async () => undefined),
    refusal("BadSafetensors", /down_proj\.weight" twice/),
  );
});
