// Queries, keys and values that the same rows are multiplied into are one product: with the bits of products apart, for every way in which
// heads turn, and in every type.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { stored } from "../../../test/kit/models/published-parts.ts";
import { randomTensor } from "../../kernels/random.ts";
import { plainRope } from "../../kernels/rope.ts";
import type { Op, Rope, Segment } from "../../kernels/segment.ts";
import type { WeightData } from "../../kernels/weights.ts";
import { type StoredForm, storedWeight } from "../../weights/stored.ts";
import { createGgmlBackend } from "./index.ts";

const width = 256;
const [heads, kvHeads, headDim] = [4, 2, 64];
const sizes = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * headDim } as const;
const names = ["q", "k", "v"] as const;

/** `apart`: the products are outputs too, so that they have to be whole. */
function attention(rope: Rope, apart: boolean): Segment {
  const output = { name: "out", dtype: "f32" as const, width: sizes.q };
  const products: Op[] = names.map((name) => ({ op: "matMul", x: "x", weight: `w.${name}`, out: name }));
  return {
    name: "attention",
    inputs: [{ name: "x", dtype: "f32", width }],
    outputs: [output, ...(apart ? names.map((name) => ({ name, dtype: "f32" as const, width: sizes[name] })) : [])],
    weights: names.map((name) => ({ name: `w.${name}`, shape: [sizes[name], width] })),
    ops: [
      ...products,
      {
        op: "attention",
        q: "q",
        k: "k",
        v: "v",
        layer: 0,
        heads,
        kvHeads,
        headDim,
        valueDim: headDim,
        rope,
        scale: 0.1,
        window: 0,
        out: "out",
      },
    ],
  };
}

const weightsOf = (forms: readonly StoredForm[]): Record<string, WeightData> =>
  Object.fromEntries(
    names.map((name, i) => {
      const form = forms[i % forms.length] as StoredForm;
      return [`w.${name}`, storedWeight(form, [sizes[name], width], stored(form, sizes[name] * width, i + 1))];
    }),
  );

const backend = await createGgmlBackend({ threads: 1, denseBits: 16 });
after(() => backend.close());

const whole = plainRope(headDim, 1e4);
const ropes: Readonly<Record<string, Rope>> = {
  "all of a head": whole,
  "neighbouring pairs": { ...whole, interleaved: true },
  "a part of a head": { ...plainRope(32, 1e4), from: 16 },
};
const forms: Readonly<Record<string, readonly StoredForm[]>> = {
  f32: ["f32"],
  q8_0: ["q8_0"],
  q4_0: ["q4_0"],
  mixed: ["q4_0", "q4_0", "q8_0"],
};

async function run(segment: Segment, weights: Record<string, WeightData>): Promise<Float32Array[]> {
  const program = await backend.compile(segment, weights);
  const cache = await backend.createKv({ layers: 1, slots: 2, kvHeads, headDim, valueDim: headDim, context: 64 });
  const given: Float32Array[] = [];
  const step = async (seed: number, groups: { firstSlot: number; batch: number; tokens: number; past: Int32Array }[]) => {
    const rows = groups.reduce((sum, { batch, tokens }) => sum + batch * tokens, 0);
    const { out } = await program.run({ x: randomTensor(seed, [rows, width]) }, { cache, groups });
    given.push((out!.data as Float32Array).slice());
  };
  const first = { firstSlot: 0, batch: 1, tokens: 7, past: Int32Array.of(0) };
  const second = { firstSlot: 1, batch: 1, tokens: 3, past: Int32Array.of(0) };
  await step(1, [first]);
  await step(2, [second, { firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(7) }]);
  await step(3, [{ firstSlot: 0, batch: 2, tokens: 1, past: Int32Array.of(8, 3) }]);
  await cache.dispose();
  await program.dispose();
  return given;
}

for (const [turning, rope] of Object.entries(ropes))
  for (const [kind, each] of Object.entries(forms))
    test(`${kind}, ${turning}: one product gives the bits of three`, async () => {
      const weights = weightsOf(each);
      const [together, apart] = [await run(attention(rope, false), weights), await run(attention(rope, true), weights)];
      assert.ok(together.every((rows) => rows.some((value) => value !== 0) && rows.every(Number.isFinite)));
      assert.deepEqual(together, apart);
    });

test("weights of one product take the bytes that they take apart", async () => {
  const weights = weightsOf(["q8_0"]);
  const [together, apart] = [
    await backend.compile(attention(whole, false), weights),
    await backend.compile(attention(whole, true), weights),
  ];
  assert.equal(together.residentBytes, apart.residentBytes);
});
