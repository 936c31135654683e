// Attention by products: a row's bits are those of a decode, whatever heads share, whoever wrote the slot before, and in which build.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { randomTensor } from "../../kernels/random.ts";
import { plainRope } from "../../kernels/rope.ts";
import type { Segment } from "../../kernels/segment.ts";
import { createGgmlBackend } from "./index.ts";
import { instructionsOf } from "./types.ts";

const length = 150;
const slots = 2;
const builds = ["skylakex", "icelake", "zen4", "haswell", "alderlake", "sandybridge", "ivybridge", "sse42"];
const shapes = {
  "three heads share one": { heads: 9, kvHeads: 3, headDim: 64, valueDim: 64 },
  "three heads share one of f16": { heads: 9, kvHeads: 3, headDim: 64, valueDim: 64, type: "f16" },
  "each has its own, in rows of 2 KiB": { heads: 4, kvHeads: 4, headDim: 128, valueDim: 128 },
  "heads of 20 with values of 12": { heads: 2, kvHeads: 2, headDim: 20, valueDim: 12 },
} as const;

async function open(shape: (typeof shapes)[keyof typeof shapes], options: { readonly threads: number; readonly cpuBuild?: string }) {
  const backend = await createGgmlBackend(options);
  const { heads, kvHeads, headDim, valueDim } = shape;
  const widths = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * valueDim };
  const rope = plainRope(headDim, 1e4);
  const segment: Segment = {
    name: "attention",
    inputs: Object.entries(widths).map(([name, width]) => ({ name, dtype: "f32", width })),
    outputs: [{ name: "out", dtype: "f32", width: heads * valueDim }],
    weights: [],
    ops: [{ op: "attention", q: "q", k: "k", v: "v", layer: 0, ...shape, rope, scale: headDim ** -0.5, window: 0, out: "out" }],
  };
  const program = await backend.compile(segment, {});
  const kv = await backend.createKv({ layers: 1, ...shape, slots, context: length });
  /** Rows `first` to `first + count` of one text, in each of `batch` slots. */
  const rows = async (first: number, count: number, batch: number, fill?: number): Promise<Uint32Array> => {
    const inputs = Object.entries(widths).map(([name, width], i) => {
      const own = randomTensor(i, [length, width]).data.slice(first * width, (first + count) * width);
      const data = new Float32Array(batch * count * width);
      for (let b = 0; b < batch; b++) data.set(fill === undefined ? own : own.fill(fill), b * count * width);
      return [name, { shape: [batch * count, width], data }] as const;
    });
    const groups = [{ firstSlot: 0, batch, tokens: count, past: new Int32Array(batch).fill(first) }];
    const { out } = await program.run(Object.fromEntries(inputs), { cache: kv, groups });
    return new Uint32Array((out!.data as Float32Array).slice().buffer);
  };
  return { rows, close: () => backend.close() };
}

for (const [name, shape] of Object.entries(shapes)) {
  test(`${name}: a prompt in any pieces has the bits of a decode, behind a text of NaN, on 1 or 2 threads`, async () => {
    const sides = await Promise.all([1, 2].map((threads) => open(shape, { threads })));
    const width = shape.heads * shape.valueDim;
    for (const { rows } of sides) await rows(0, length, slots, Number.NaN);
    const want = new Uint32Array(length * width);
    for (let at = 0; at < length; at++) want.set(await sides[0]!.rows(at, 1, 1), at * width);
    const pieces = fc.array(fc.integer({ min: 1, max: length }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(pieces, fc.nat(1), fc.integer({ min: 1, max: slots }), async (sizes, side, batch) => {
        for (let first = 0, i = 0; first < length; i++) {
          const count = Math.min(sizes[i] ?? length, length - first);
          const got = await sides[side]!.rows(first, count, batch);
          const part = want.slice(first * width, (first + count) * width);
          for (let b = 0; b < batch; b++) assert.deepEqual(got.slice(b * part.length, (b + 1) * part.length), part);
          first += count;
        }
      }),
      { numRuns: 6 },
    );
    for (const { close } of sides) await close();
  });
}

test("large keys and values count as they are", async () => {
  const { rows, close } = await open(shapes["three heads share one"], { threads: 1 });
  const got = new Float32Array((await rows(0, 3, 1, 1e6)).buffer);
  assert.ok(got.every((value) => Math.abs(value - 1e6) < 1));
  await close();
});

for (const name of ["three heads share one", "three heads share one of f16"] as const)
  test(`${name}: builds of one set of instructions give the same bits`, { skip: process.arch !== "x64" }, async () => {
    const known = new Map<string, string>();
    for (const cpuBuild of builds) {
      const side = await open(shapes[name], { threads: 1, cpuBuild }).catch(() => undefined);
      if (side === undefined) continue; // this processor lacks its instructions
      const bits = `${await side.rows(0, length, 1)}`;
      const set = instructionsOf(cpuBuild, "f32");
      assert.equal(bits, known.get(set) ?? bits, `${cpuBuild} is not as others of ${set}`);
      known.set(set, bits);
      await side.close();
    }
  });
