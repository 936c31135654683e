// The memory of weights: many share a chunk, it takes what is written, it goes when the last of them goes, and it lies in large pages
// where the machine has them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CpuDevice, GgmlDevice } from "./device.ts";
import { ggmlLibrary } from "./library.ts";
import { numberOf } from "./types.ts";
import { type DeviceBuffer, Spares } from "./weight-memory.ts";

const mebibyte = 2 ** 20;

/** Bytes of the process in mappings that have something of these places: resident, and in large pages. */
function mapped(places: readonly Pick<DeviceBuffer, "base" | "bytes">[]): { resident: number; large: number } {
  const found = { resident: 0, large: 0 };
  let inside = false;
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range) {
      const [from, to] = [BigInt(`0x${range[1]}`), BigInt(`0x${range[2]}`)];
      inside = places.some(({ base, bytes }) => to > base && from < base + BigInt(bytes));
    }
    if (!range && inside) {
      found.resident += 1024 * Number(/^Rss: +(\d+) kB/.exec(line)?.[1] ?? 0);
      found.large += 1024 * Number(/^AnonHugePages: +(\d+) kB/.exec(line)?.[1] ?? 0);
    }
  }
  return found;
}

function write(device: CpuDevice, { handle, base, bytes }: DeviceBuffer): void {
  const { ggml } = device;
  const metadata = device.metadata(1);
  const tensor = ggml.ggml_new_tensor_4d(metadata.context, numberOf("f32"), bytes / 4, 1, 1, 1);
  ggml.ggml_backend_tensor_alloc(handle, tensor, base);
  ggml.ggml_backend_tensor_set(tensor, new Float32Array(bytes / 4).fill(1), 0, bytes);
  metadata.free();
}

test("weights lie one after another, in memory that is resident as far as it is written", () => {
  const device = new CpuDevice({ threads: 1 });
  const taken = Array.from({ length: 24 }, () => device.weightMemory.take(mebibyte, device.plainMemory));
  for (const [i, { base, handle }] of taken.entries()) {
    assert.equal(base, taken[0]!.base + BigInt(i * mebibyte));
    assert.equal(handle, taken[0]!.handle);
  }
  for (const each of taken) write(device, each);
  const full = mapped(taken);
  assert.ok(full.resident >= 24 * mebibyte && full.resident <= 24.1 * mebibyte, `${full.resident} resident`);
  for (const each of taken.slice(1)) each.free();
  taken[1]!.free(); // a second time it does nothing
  const one = mapped(taken);
  assert.ok(one.resident <= 3 * mebibyte, `${one.resident} resident for one`);
  taken[0]!.free();
  device.close();
});

test("resident is within 3% of what was asked, just above a large page and just above the half of a chunk, too", () => {
  for (const [bytes, count] of [
    [64 * 1024, 1],
    [2 * mebibyte + 64 * 1024, 1],
    [3 * mebibyte - 64 * 1024, 5],
    [32 * mebibyte + 64 * 1024, 3],
    [64 * mebibyte + 64 * 1024, 1],
  ] as const) {
    const device = new CpuDevice({ threads: 1 });
    const taken = Array.from({ length: count }, () => device.weightMemory.take(bytes, device.plainMemory));
    for (const each of taken) write(device, each);
    const asked = count * bytes;
    const { resident } = mapped(taken);
    assert.ok(Math.abs(resident - asked) <= 0.03 * asked, `${resident} resident, ${count} times ${bytes} asked`);
    device.close();
  }
});

test("weights lie in large pages where the machine gives them, also those that share one and were written before it was full", (t) => {
  const device = new CpuDevice({ threads: 1 });
  const { ggml, plainMemory } = device;
  const large = BigInt(2 * mebibyte);
  const control = device.allocate(6 * mebibyte);
  const base = ((control.base + large - 1n) / large) * large;
  const { handle } = control;
  device.discard(base, 4 * mebibyte); // the allocator may have had it before
  ggml.largePages(base, 4 * mebibyte);
  write(device, { handle, base, bytes: 1.5 * mebibyte, free: () => {} });
  write(device, { handle, base: base + large, bytes: mebibyte, free: () => {} });
  ggml.joinPages(base, 2 * mebibyte);
  const given = mapped([{ base, bytes: 4 * mebibyte }]).large >= 4 * mebibyte;
  const taken = Array.from({ length: 16 }, () => {
    const each = device.weightMemory.take(1.5 * mebibyte, plainMemory);
    write(device, each);
    return each;
  });
  const got = mapped(taken).large;
  device.close();
  if (!given) t.skip("the machine gives no large pages now");
  else assert.equal(got, 24 * mebibyte);
});

test("what does not fit into the rest of a chunk begins another, and chunks are given back with their last weights", () => {
  const device = new CpuDevice({ threads: 1 });
  const { weightMemory, plainMemory } = device;
  const [small, large] = [weightMemory.take(mebibyte, plainMemory), weightMemory.take(200 * mebibyte, plainMemory)];
  assert.notEqual(small.handle, large.handle);
  const next = weightMemory.take(3, plainMemory);
  assert.equal(next.handle, small.handle); // where more is left
  assert.equal(next.base % BigInt(device.alignment), 0n);
  for (const each of [small, next, large]) each.free();
  const again = weightMemory.take(mebibyte, plainMemory);
  write(device, again);
  again.free();
  device.close();
});

test("on a device without pages weights have a buffer of their own", () => {
  const device = new CpuDevice({ threads: 1, pages: false });
  const [a, b] = [device.weightMemory.take(64, device.plainMemory), device.weightMemory.take(64, device.plainMemory)];
  assert.notEqual(a.handle, b.handle);
  device.close();
});

test("the smallest spare buffer that is large enough is taken, and each of them once", () => {
  const spares = new Spares<{ readonly bytes: number; readonly memory: bigint }>();
  const [memory, other] = [1n, 2n];
  assert.equal(spares.take(1, memory), undefined);
  for (const bytes of [64, 16, 32]) spares.keep({ bytes, memory });
  assert.equal(spares.take(16, other), undefined, "of another kind");
  assert.equal(spares.take(17, memory)?.bytes, 32);
  assert.equal(spares.take(17, memory)?.bytes, 64);
  assert.equal(spares.take(17, memory), undefined);
  assert.equal(spares.take(16, memory)?.bytes, 16);
});

test("a spare buffer serves a device in software whose memory is used up, and a new one is refused there", () => {
  const ggml = ggmlLibrary();
  let freeBytes = 4096;
  const device = new GgmlDevice({
    ...{ ggml, backend: ggml.ggml_backend_cpu_init(), description: "in software", exact: true, computesWith: () => "", software: true },
    memory: () => ({ freeBytes, totalBytes: 4096 }),
  });
  const first = device.allocate(4096);
  freeBytes = 0;
  assert.throws(() => device.allocate(64), { code: "OutOfDeviceMemory" });
  first.free();
  const second = device.allocate(1024);
  assert.equal(second.handle, first.handle);
  assert.throws(() => device.allocate(64), { code: "OutOfDeviceMemory" });
  device.close();
});
