// The safetensors reader: reads what the writer and Hugging Face write, and refuses everything else by name.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { halfToFloat, widenBf16, widenF16 } from "../kernels/ggml/half-floats.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { sha256Apart, sha256Hex } from "./digest.ts";
import { bytesOf, roundToBf16, viewF32 } from "./floats.ts";
import { openSafetensors } from "./safetensors.ts";
import { encodeHeader, writeSafetensors } from "./safetensors-writer.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-safetensors-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");

test("what is written comes back, with hashes", async () => {
  const path = join(dir, "round.safetensors");
  const a = Float32Array.from([1.5, -2, 3, Number.MIN_VALUE, 0, 7]);
  const hashes = await writeSafetensors(path, [
    { name: "a", dtype: "F32", shape: [2, 3], read: async () => bytesOf(a) },
    { name: "h", dtype: "F16", shape: [2], read: async () => Uint8Array.of(0x00, 0x3c, 0x00, 0xc0) },
    { name: "empty", dtype: "F32", shape: [0], read: async () => new Uint8Array(0) },
  ]);
  const file = await openSafetensors(path);
  assert.deepEqual(file.names, ["a", "h", "empty"]);
  assert.deepEqual(await file.read("a"), a);
  assert.deepEqual([...(await file.read("h"))], [1, -2]);
  assert.match(hashes.a!, /^[0-9a-f]{64}$/);
  await file.close();
});

test("a tensor of the wrong size cannot be written", async () => {
  const tensor = { name: "a", dtype: "F32" as const, shape: [4], read: async () => new Uint8Array(12) };
  await assert.rejects(writeSafetensors(join(dir, "wrong.safetensors"), [tensor]), /has 12 bytes, expected 16/);
});

test("sharded checkpoints read as one, and a half checkpoint widens to the values it stores", async () => {
  const checkpoint = await openCheckpoint(join(golden, "tiny-bf16"));
  assert.ok(checkpoint.names.length > 30);
  const values = await checkpoint.read("model.embed_tokens.weight");
  assert.deepEqual(roundToBf16(values), values);
  await assert.rejects(checkpoint.read("model.nothing"), (error: unknown) => error instanceof AppError && error.code === "MissingTensor");
  await checkpoint.close();
});

test("halves widen exactly: subnormals, infinities, NaN and both signs", () => {
  const cases: Record<number, number> = {
    1: 2 ** -24,
    32769: -(2 ** -24),
    1023: 1023 * 2 ** -24,
    31743: 65504,
    31744: Infinity,
    64512: -Infinity,
    13653: 0.333251953125,
  };
  for (const [bits, want] of Object.entries(cases)) assert.equal(halfToFloat(Number(bits)), want);
  assert.ok(Number.isNaN(halfToFloat(0x7e00)));
  assert.ok(Object.is(halfToFloat(0x8000), -0));
  assert.deepEqual([...widenF16(Uint8Array.of(0xff, 0x7b))], [65504]);
  assert.deepEqual([...widenBf16(Uint8Array.of(0x80, 0x3f, 0x49, 0xc0))], [1, -3.140625]);
});

function file(header: string, data = 16): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}
const entry = (fields: object) => JSON.stringify({ a: { dtype: "F32", shape: [4], data_offsets: [0, 16], ...fields } });

const two = (second: readonly [number, number]) =>
  JSON.stringify({
    a: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
    b: { dtype: "F32", shape: [1], data_offsets: second },
  });
const withMetadata = (metadata: unknown) => entry({}).replace("{", `{"__metadata__":${JSON.stringify(metadata)},`);

const broken: Readonly<Record<string, readonly [bytes: Uint8Array, want: RegExp, code?: string]>> = {
  "an empty file": [new Uint8Array(0), /too few for a header/],
  "a header longer than the file": [Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 127, 1), /says its header has/],
  "a header that is not JSON": [file("{nope"), /not JSON/],
  "a header that is not UTF-8": [Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe), /not UTF-8/],
  "a header that is a list": [file("[]"), /not a JSON object/],
  "a tensor past the end": [file(entry({ shape: [8], data_offsets: [0, 32] })), /past the file's/],
  "a length that contradicts the shape": [file(entry({ data_offsets: [0, 12] })), /takes 16 bytes/],
  "a negative length": [file(entry({ data_offsets: [16, 0] })), /takes 16 bytes/],
  "a shape whose product overflows": [file(entry({ shape: [2 ** 40, 2 ** 40], data_offsets: [0, 0] })), /takes/],
  "an unknown dtype": [file(entry({ dtype: "I8" })), /dtype I8; supported are F32, F16, BF16/, "UnsupportedDtype"],
  "a dtype named like a method": [file(entry({ dtype: "toString" })), /dtype toString/, "UnsupportedDtype"],
  "tensors that overlap": [
    file(
      JSON.stringify({ a: { dtype: "F32", shape: [4], data_offsets: [0, 16] }, b: { dtype: "F32", shape: [1], data_offsets: [8, 12] } }),
    ),
    /overlaps/,
  ],
  // Each as the format's own library (0.8.0) refuses it: InvalidOffset, MetadataIncompleteBuffer, InvalidHeaderDeserialization.
  "a hole between tensors": [file(two([8, 12]), 12), /tensor "b" comes after 4 bytes that belong to no tensor/],
  "a hole before the first tensor": [file(entry({ data_offsets: [4, 20] }), 20), /tensor "a" comes after 4 bytes that belong to no tensor/],
  "bytes after the last tensor": [file(entry({}), 17), /ends in 1 bytes that belong to no tensor/],
  "bytes and no tensor": [file("{}", 4), /ends in 4 bytes that belong to no tensor/],
  "metadata that holds a number": [file(withMetadata({ step: 7 })), /__metadata__ is not a map of texts to texts \(step\)/],
  "metadata that holds maps": [file(withMetadata({ a: { b: "c" } })), /__metadata__ is not a map/],
  "metadata that is a list": [file(withMetadata(["pt"])), /__metadata__ is not a map/],
  "metadata that is text": [file(withMetadata("pt")), /__metadata__ is not a map/],
  "a byte order mark": [file(`\uFEFF${entry({})}`), /not JSON/],
};

test("a tensor that is not aligned reads as the format's own library reads it, and metadata of texts or null is taken", async () => {
  const path = join(dir, "unaligned.safetensors");
  const header = JSON.stringify({
    __metadata__: null,
    h: { dtype: "F16", shape: [1], data_offsets: [0, 2] },
    f: { dtype: "F32", shape: [2], data_offsets: [2, 10] },
  });
  for (const padded of [header, `${header} `, `${header}  `, `${header}   `]) {
    const bytes = file(padded, 10);
    new DataView(bytes.buffer).setFloat32(bytes.length - 8, 1.5, true);
    await writeFile(path, bytes);
    const opened = await openSafetensors(path);
    assert.deepEqual([...(await opened.read("f"))], [1.5, 0]);
    await opened.close();
  }
  await writeFile(path, file(withMetadata({ format: "pt" })));
  const opened = await openSafetensors(path);
  assert.deepEqual(opened.metadata, { format: "pt" });
  await opened.close();
});

test("a FIFO, a folder and a device are no model files, and none of them is waited for", { timeout: 10_000 }, async () => {
  const fifo = join(dir, "fifo.safetensors");
  execFileSync("mkfifo", [fifo]);
  for (const [path, kind] of Object.entries({ [fifo]: "a FIFO", [dir]: "a folder", "/dev/zero": "a device" })) {
    await assert.rejects(openSafetensors(path), {
      name: AppError.name,
      message: `${path}: is ${kind}, not a regular file; put the file itself there`,
    });
  }
});

for (const [sentence, [bytes, message, code = "BadSafetensors"]] of Object.entries(broken)) {
  test(`${sentence} is refused`, async () => {
    const path = join(dir, "broken.safetensors");
    await writeFile(path, bytes);
    await assert.rejects(openSafetensors(path), { name: AppError.name, code, message });
  });
}

test("a shard index cannot point outside its folder, and a folder without weights says what to give", async () => {
  const empty = await mkdtemp(join(dir, "shards-"));
  await assert.rejects(openCheckpoint(empty), /neither model\.safetensors nor/);
  await writeFile(join(empty, "model.safetensors.index.json"), JSON.stringify({ weight_map: { a: "../../etc/passwd.safetensors" } }));
  await assert.rejects(openCheckpoint(empty), (error: unknown) => error instanceof AppError && error.code === "BadSafetensors");
});

test("truncations and flipped header bytes of a real file load or are refused, and reading stays inside the file", async () => {
  const whole = await readFile(join(golden, "tiny-f16", "model.safetensors"));
  const headerEnd = encodeHeader([]).length + 3000;
  let state = 11;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % below;
  };
  const path = join(dir, "fuzz.safetensors");
  let refused = 0;
  for (let i = 0; i < 120; i++) {
    const changed = i % 3 === 0 ? whole.subarray(0, random(whole.length)) : Buffer.from(whole);
    if (i % 3 !== 0) changed[random(headerEnd)]! ^= 1 << random(8);
    await writeFile(path, changed);
    try {
      const opened = await openSafetensors(path);
      for (const name of opened.names.slice(0, 3)) await opened.read(name);
      await opened.close();
    } catch (error) {
      assert.ok(error instanceof AppError, String(error));
      refused++;
    }
  }
  assert.ok(refused > 60, `${refused} of 120 refused`);
});

test("a hash made apart is that of the view's bytes, of none too, and lets others have their turn", async () => {
  const bytes = new Uint8Array(9 * 1024 * 1024 + 5).map((_, i) => i % 251).subarray(3);
  let hashed = false;
  const hash = sha256Apart(bytes).finally(() => (hashed = true));
  await new Promise(setImmediate);
  assert.equal(hashed, false);
  assert.equal(await hash, sha256Hex(bytes));
  assert.equal(await sha256Apart(new Uint8Array(0)), sha256Hex(new Uint8Array(0)));
});

test("bytes are read as floats at any alignment, those of a message's Buffer too", () => {
  const floats = Float32Array.of(1.5, -2, 3e-9);
  for (const shift of [0, 1, 4]) {
    const buffer = new Uint8Array(16);
    buffer.set(bytesOf(floats), shift);
    for (const bytes of [buffer, Buffer.from(buffer.buffer)]) assert.deepEqual(viewF32(bytes.subarray(shift, shift + 12)), floats);
  }
});
