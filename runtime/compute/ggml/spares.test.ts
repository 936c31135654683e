import assert from "node:assert/strict";
import { test } from "node:test";
import { GgmlDevice } from "./device.ts";
import { ggmlLibrary } from "./library.ts";
import { Spares } from "./spares.ts";

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
