// Scores of long texts stay below a bound that the memory check counts, and rows keep their bits where they come in parts.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { randomTensor } from "../../kernels/random.ts";
import { plainRope } from "../../kernels/rope.ts";
import type { Layer, Segment } from "../../kernels/segment.ts";
import { CpuDevice } from "./device.ts";
import { backendOn } from "./index.ts";
import { scoredTogether, scoresBytes } from "./scores.ts";

const [length, slots, headDim] = [2_048, 64, 4];
const Mi = 2 ** 20;

for (const [heads, kvHeads, type] of [
  [512, 2, "f32"],
  [512, 2, "f16"],
  [256, 256, "f32"],
] as const) {
  test(`${heads} heads with ${kvHeads} of keys in ${type}: scores are bounded and counted`, { skip: process.arch !== "x64" }, async () => {
    const device = new CpuDevice({ threads: 1 });
    const backend = backendOn(device, {});
    const widths = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * headDim };
    const sizes = { heads, kvHeads, headDim, valueDim: headDim };
    const block: Segment = {
      name: "attention",
      inputs: Object.entries(widths).map(([name, width]) => ({ name, dtype: "f32", width })),
      outputs: [{ name: "out", dtype: "f32", width: heads * headDim }],
      weights: [],
      ops: [
        { op: "attention", q: "q", k: "k", v: "v", layer: 0, ...sizes, rope: plainRope(headDim, 1e4), scale: 1, window: 0, out: "out" },
      ],
    };
    const program = await backend.compile(block, {});
    const cache = await backend.createKv({ layers: 1, heads, kvHeads, type, headDim, valueDim: headDim, slots, context: length });
    const from = length - 64;
    const texts = Object.values(widths).map((width, i) => randomTensor(i, [64, width]).data as Float32Array);
    /** Row `first` to `first + tokens` of a text in each of so many slots. */
    const rows = async (past: readonly number[], tokens: number): Promise<Float32Array> => {
      const inputs = Object.entries(widths).map(([name, width], i) => {
        const text = texts[i]!;
        const data = new Float32Array(past.length * tokens * width);
        for (const [b, at] of past.entries())
          data.set(text.subarray((at - from) * width, (at - from + tokens) * width), b * tokens * width);
        return [name, { shape: [past.length * tokens, width], data }] as const;
      });
      const groups = [{ firstSlot: 0, batch: past.length, tokens, past: Int32Array.from(past) }];
      const { out } = await program.run(Object.fromEntries(inputs), { cache, groups });
      return (out!.data as Float32Array).slice();
    };
    const part = await rows([from], 64);
    const width = heads * headDim;
    for (const at of [0, 1, 30, 63]) assert.deepEqual(await rows([from + at], 1), part.slice(at * width, (at + 1) * width));
    const batch = await rows(new Array(slots).fill(from), 1);
    assert.deepEqual(batch.slice(0, width), part.slice(0, width));
    assert.deepEqual(batch.slice(-width), (await rows([from, from], 1)).slice(width), "of two whose slots were empty");
    const counted = backend.workBytes([{ kind: "dense", block } as Layer], 64, { context: length, type }) / 2; // of each queue
    assert.ok(device.scratchBytes <= counted + 16 * Mi, `${device.scratchBytes / Mi} of ${counted / Mi} MiB`);
    assert.ok(counted < 100 * Mi);
    await backend.close();
  });
}

test("scores, widened values and their rows are below what is counted, in steps of any shape", () => {
  const sizes = fc.tuple(fc.nat(7), fc.nat(5), fc.nat(200), fc.nat(63), fc.nat(63));
  fc.assert(
    fc.property(sizes, (least) => {
      const [kvHeads, sharing, blocks, batch, tokens] = least.map((each) => each + 1) as [number, number, number, number, number];
      const [op, positions] = [{ op: "attention", heads: (2 + sharing) * kvHeads, kvHeads, valueDim: 128 }, 64 * blocks];
      const parts = scoredTogether(op as never, { length: positions, batch, tokens } as never, "f16");
      const found = parts.map((part) => positions * (6 * part.batch * part.tokens * op.heads + 4 * part.batch * kvHeads * 128));
      const places = [...new Set(parts.map((part) => 4 * positions * kvHeads * part.batch))].reduce((sum, bytes) => sum + bytes);
      const counted = scoresBytes([{ block: { ops: [op] } } as never], batch * tokens, { length: positions, type: "f16" });
      assert.ok(Math.max(...found) + places <= counted, `${Math.max(...found)} and ${places} of ${counted}`);
    }),
  );
});
