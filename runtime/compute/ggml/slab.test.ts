// The memory of experts on the processor: a layer's slab takes what the experts in it take, wherever their slots are, and gives it back.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData } from "../../kernels/weights.ts";
import { CpuDevice } from "./device.ts";
import { SingleExperts } from "./singles.ts";
import { weightBytes } from "./types.ts";

const [hidden, ffn, experts] = [1024, 2048, 32];
const shapes = { gate: [ffn, hidden], up: [ffn, hidden], down: [hidden, ffn] } as const;
const segment: Segment = {
  name: "expert",
  inputs: [{ name: "x", dtype: "f32", width: hidden }],
  outputs: [{ name: "y", dtype: "f32", width: hidden }],
  weights: Object.entries(shapes).map(([name, shape]) => ({ name, shape })),
  ops: [
    { op: "matMul", x: "x", weight: "gate", out: "a" },
    { op: "matMul", x: "x", weight: "up", out: "b" },
    { op: "siluMul", a: "a", b: "b", out: "c" },
    { op: "matMul", x: "c", weight: "down", out: "y" },
  ],
};
const blocks = (shape: readonly number[]): WeightData => ({
  form: "q4_0",
  shape,
  data: new Uint8Array(weightBytes("q4_0", shape)).fill(1),
});
const weights = Object.fromEntries(segment.weights.map(({ name, shape }) => [name, blocks(shape)]));
const storedBytes = segment.weights.reduce((sum, { shape }) => sum + weightBytes("q4_0", shape), 0);

/** Of gate and up, which are one matrix, and of down. */
const partBytes = [weightBytes("q4_0", [2 * ffn, hidden]), weightBytes("q4_0", [hidden, ffn])];

/** Bytes of the process's pages between two addresses. */
function residentBetween(from: bigint, to: bigint): number {
  let [inside, bytes] = [false, 0];
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range) inside = BigInt(`0x${range[2]}`) > from && BigInt(`0x${range[1]}`) < to;
    else if (inside) bytes += 1024 * Number(/^Rss: +(\d+) kB/.exec(line)?.[1] ?? 0);
  }
  return bytes;
}

test("resident bytes of a layer are those of its experts within 3%, wherever they are, and go when they go", async () => {
  const device = new CpuDevice({ threads: 1 });
  const shelf = new SingleExperts(device).shelf(segment, experts);
  const here = Array.from({ length: experts / 2 }, (_, i) => shelf.place((i * 7) % experts, weights));
  const spans = partBytes.map((bytes, part) => {
    const at = here.map(({ addresses }) => addresses[part] as bigint).sort((a, b) => (a < b ? -1 : 1));
    return [at[0]!, at.at(-1)! + BigInt(bytes)] as const;
  });
  const residentNow = (): number => spans.reduce((sum, [from, to]) => sum + residentBetween(from, to), 0);
  const resident = residentNow();
  const stored = here.length * storedBytes;
  assert.ok(resident > 0.97 * stored && resident < 1.03 * stored + 4 * 4096, `${resident} resident, ${stored} stored`);
  assert.ok(here.every(({ residentBytes }) => residentBytes === storedBytes));
  for (const expert of here.slice(1)) await expert.dispose();
  assert.ok(residentNow() < 1.03 * storedBytes + 16 * 4096, `${residentNow()} for one expert`);
  await here[0]!.dispose();
  device.close();
});

test("where the machine does not give the address space of a whole layer, experts lie apart and are no range", async () => {
  const device = new CpuDevice({ threads: 1 });
  const many = new SingleExperts(device).shelf(segment, 2 ** 26); // 2^47 bytes and more, beyond what addresses can say
  const expert = many.place(3, weights);
  assert.equal(many.whole, undefined);
  assert.equal((await expert.run({ x: { shape: [1, hidden], data: new Float32Array(hidden) } })).y!.data.length, hidden);
  await expert.dispose();
  device.close();
});
