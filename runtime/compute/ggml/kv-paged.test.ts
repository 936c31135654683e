// The KV cache's memory where there are pages: it follows what is written, not the slots that there are, and comes back when slots are
// trimmed or moved.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { kvBlockBytes } from "../kv-size.ts";
import { CpuDevice } from "./device.ts";
import { PagedKv } from "./kv-paged.ts";

const Mi = 2 ** 20;
const resident = (): number => process.memoryUsage.rss();

test("slots cost what is written in them; trimming and moving give memory back, and trimmed memory reads as zeros", async () => {
  const device = new CpuDevice({ threads: 1 });
  const { ggml } = device;
  const shape = { layers: 4, slots: 64, kvHeads: 4, context: 8192, headDim: 64, valueDim: 64, type: "f16" as const };
  const poolBlocks = 128;
  const kv = new PagedKv(device, { ...shape, poolBlocks }, ggml.pageBytes);
  assert.equal(kv.slots, 64);
  assert.equal(kv.bytes, poolBlocks * kvBlockBytes(shape, ggml.pageBytes));
  const before = resident();
  // A slot whole: a ones' copy of 64 positions, doubled until the context is full.
  const rows = new Uint16Array(64 * 4 * 64).fill(0x3c00);
  const slotBytes = kv.stride * 4 * 64 * 2;
  const tensors = kv.layers.flatMap(({ keys, values }) => [keys.tensor, values.tensor]);
  for (const tensor of tensors) {
    for (let at = 0; at < shape.context; at += 64) ggml.ggml_backend_tensor_set(tensor, rows, 5 * slotBytes + at * 512, rows.byteLength);
  }
  const written = 8 * slotBytes; // 32 MiB
  const grown = resident() - before;
  assert.ok(grown > 0.9 * written && grown < 1.3 * written, `${grown} for ${written} written`);
  await kv.moveSlot(5, 0, shape.context);
  assert.ok(resident() - before < 1.4 * written, "a slot that moves is there once, but for a layer");
  kv.trimSlot(0, 64);
  assert.ok(resident() - before < 8 * Mi, `${resident() - before} after the trim`);
  const read = new Uint16Array(2 * 256);
  ggml.ggml_backend_tensor_get(tensors[7]!, read, 63 * 512, read.byteLength);
  assert.deepEqual([read[0], read[255], read[256], read[511]], [0x3c00, 0x3c00, 0, 0]);
  await kv.dispose();
  device.close();
});

test("positions are read and written without what lies between their rows", async () => {
  const device = new CpuDevice({ threads: 1 });
  const shape = { layers: 2, slots: 2, kvHeads: 4, context: 128, headDim: 128, valueDim: 64 };
  const kv = new PagedKv(device, shape, device.ggml.pageBytes);
  const { keys } = kv.layers[0]!;
  assert.equal(keys.rowBytes, 4 * 128 * 4 + 64, "a line lies between rows of keys");
  const rows = new Uint8Array(70 * kv.positionBytes).map((_, i) => i % 61);
  kv.writeRows(1, 0, rows.subarray(0, 64 * kv.positionBytes));
  kv.writeRows(1, 64, rows.subarray(64 * kv.positionBytes));
  assert.deepEqual(kv.readRows(1, 0, 64), rows.subarray(0, 64 * kv.positionBytes));
  assert.deepEqual(kv.readRows(1, 64, 6), rows.subarray(64 * kv.positionBytes));
  const key = new Uint8Array(16);
  device.ggml.ggml_backend_tensor_get(keys.tensor, key, (kv.stride + 3) * keys.rowBytes, key.byteLength);
  assert.deepEqual(key, rows.subarray(3 * 2048, 3 * 2048 + 16), "keys of the first layer come first");
  await kv.dispose();
  device.close();
});

test("where a machine does not give the address space, there are fewer slots; heads that do not fit a type are refused", () => {
  const device = new CpuDevice({ threads: 1 });
  const huge = { layers: 1, slots: 64, kvHeads: 64, context: 2 ** 16, headDim: 512, valueDim: 512 };
  const kv = new PagedKv(device, { ...huge, poolBlocks: 1 }, 4096);
  // A kubelet has its machine promise any address space.
  const promisesAll = readFileSync("/proc/sys/vm/overcommit_memory", "utf8").trim() === "1";
  assert.ok(kv.slots >= 1 && (promisesAll || kv.slots < 64), `${kv.slots}`);
  kv.trimSlot(kv.slots - 1, 0);
  assert.throws(() => new PagedKv(device, { ...huge, headDim: 48, type: "q8_0" }, 4096), {
    code: "UnsupportedShape",
    message: /heads of 48.*q8_0/,
  });
  device.close();
});
