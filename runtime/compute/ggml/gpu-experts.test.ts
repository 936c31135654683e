// Slabs of experts, as GPUs have them, on the processor: the rows of many at once are those of each alone, in slots used again too, and
// after a slab has grown or shrunk.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { CpuDevice } from "./device.ts";
import { SingleExperts } from "./expert-programs.ts";
import { Experts } from "./gpu-experts.ts";

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
  const [many, single] = [slabs.expertSlab(segment, experts), singles.expertSlab(segment, experts)];
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

test("experts that come and go, so that slabs grow and shrink, answer what they did before", async () => {
  const experts = 16;
  const device = new CpuDevice({ threads: 1 });
  const alone = Array.from({ length: experts }, (_, i) => new SingleExperts(device).expertSlab(segment, 1).place(0, weightsOf(100 * i)));
  const x = rows(5, 2);
  const want = await Promise.all(alone.map(async (expert) => (await expert.run(x)).y!.data.slice()));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(experts - 1), { minLength: 1, maxLength: 60 }), async (toggles) => {
      const expertSlab = new Experts(device).expertSlab(segment, experts);
      const here = new Map<number, ReturnType<typeof expertSlab.place>>();
      const all = Array.from({ length: experts }, (_, i) => i);
      for (const number of [...toggles, ...all.filter((i) => toggles.filter((each) => each === i).length % 2 === 0)]) {
        const known = here.get(number);
        if (known) {
          await known.dispose();
          here.delete(number);
        } else here.set(number, expertSlab.place(number, weightsOf(100 * number)));
        assert.equal(expertSlab.whole !== undefined, here.size === experts);
        if (here.size > 0) assert.ok(expertSlab.slab.slots - here.size <= 3, `${expertSlab.slab.slots} slots for ${here.size} experts`);
        for (const [each, expert] of here) assert.deepEqual((await expert.run(x)).y!.data, want[each], `expert ${each}`);
      }
      for (const [number, { slot }] of here) assert.equal(slot, number, "each in the slot of its number when all are here");
      for (const expert of here.values()) await expert.dispose();
    }),
    { numRuns: 8 },
  );
  device.close();
});

test("experts of unlike forms share a slab for each form, answer what they did alone, and leave the layer whole when like ones follow", async () => {
  const [experts, device] = [8, new CpuDevice({ threads: 1 })];
  const slabs = new Experts(device);
  const expertSlab = slabs.expertSlab(segment, experts);
  const formed = (number: number, form: "f32" | "bf16"): Weights => {
    const f32 = weightsOf(100 * number);
    if (form === "f32") return f32;
    return codecFor("bf16").decode(
      codecFor("bf16").encode({ up: f32.up!.data, bias: f32.bias!.data, down: f32.down!.data }, segment.weights),
      segment.weights,
    );
  };
  const formOf = (number: number) => (number % 3 === 0 ? "f32" : "bf16");
  const placed = Array.from({ length: experts }, (_, number) => expertSlab.place(number, formed(number, formOf(number))));
  assert.equal(new Set(placed.map(({ expertSlab }) => expertSlab)).size, 2, "not a slab for each expert");
  assert.deepEqual([expertSlab.whole, expertSlab.parted], [undefined, undefined]);
  const x = rows(5, 2);
  const together = slabs.runMany(placed.map((program) => ({ program, inputs: x })))!;
  for (const number of placed.keys()) {
    const alone = slabs.expertSlab(segment, 1).place(0, formed(number, formOf(number)));
    assert.deepEqual(together[number]!.y!.data, (await alone.run(x)).y!.data, `expert ${number}`);
    await alone.dispose();
  }
  const many = slabs.expertSlab(segment, 32);
  many.place(0, formed(0, "f32"));
  assert.equal(many.place(1, formed(1, "bf16")).expertSlab.slab.slots, 1, "a rare form has no memory for others");
  for (const [number, expert] of placed.entries()) if (formOf(number) === "bf16") await expert.dispose();
  assert.ok(expertSlab.parted !== undefined);
  for (const number of placed.keys()) if (formOf(number) === "bf16") expertSlab.place(number, formed(number, "f32"));
  assert.ok(expertSlab.whole !== undefined);
  device.close();
});
