// Slabs of experts, as GPUs have them, on the processor: the rows of many at once are those of each alone, in slots used again too.
import assert from "node:assert/strict";
import { test } from "node:test";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { CpuDevice } from "./device.ts";
import { Experts } from "./experts.ts";
import { SingleExperts } from "./singles.ts";

const [width, inner] = [64, 96];
const segment: Segment = {
  name: "expert",
  inputs: [{ name: "x", dtype: "f32", width }],
  outputs: [{ name: "y", dtype: "f32", width }],
  weights: [
    { name: "up", shape: [inner, width] },
    { name: "bias", shape: [inner] },
    { name: "down", shape: [width, inner] },
  ],
  ops: [
    { op: "matMul", x: "x", weight: "up", out: "a" },
    { op: "addRow", x: "a", row: "bias", out: "b" },
    { op: "siluMul", a: "b", b: "a", out: "c" },
    { op: "matMul", x: "c", weight: "down", out: "y" },
  ],
};
const weightsOf = (seed: number) =>
  Object.fromEntries(
    segment.weights.map(({ name, shape }, i) => [name, { form: "f32" as const, ...(randomTensor(seed + i, shape) as any) }]),
  );
const rows = (seed: number, count: number) => ({ x: randomTensor(seed, [count, width]) });

test("the rows of many experts at once are those of each alone, in slots used again too", async () => {
  const device = new CpuDevice({ threads: 1 });
  const experts = 16;
  const [slabs, singles] = [new Experts(device), new SingleExperts(device)];
  const [many, single] = [slabs.shelf(segment, experts), singles.shelf(segment, experts)];
  const put = (number: number, seed: number) => ({
    together: many.place(number, weightsOf(seed)),
    alone: single.place(number, weightsOf(seed)),
  });
  const dropped = many.place(7, weightsOf(10));
  const kept = [put(9, 20), put(3, 30)];
  await dropped.dispose();
  await dropped.dispose();
  kept.push(put(0, 40));
  const inputs = [rows(1, 3), rows(2, 1), rows(3, 5)];
  const answers = slabs.runMany(kept.map(({ together }, i) => ({ program: together, inputs: inputs[i]! })))!;
  for (const [i, { alone }] of kept.entries()) {
    const [got, want] = [answers[i]!.y!, (await alone.run(inputs[i]!)).y!];
    assert.deepEqual(got.shape, want.shape);
    for (const [k, value] of want.data.entries()) assert.ok(Math.abs((got.data[k] as number) - value) < 1e-4 * (1 + Math.abs(value)));
  }
  assert.equal(
    slabs.runMany([{ program: kept[0]!.alone, inputs: inputs[0]! }]),
    undefined,
    "what is no expert of its own is left to others",
  );
  device.close();
});
