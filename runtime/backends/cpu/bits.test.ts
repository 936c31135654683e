// The bit contract of the cpu backend: a row's bits depend on nothing but the row and its own past. Not on the rows beside it,
// the number of threads, the chunks its prompt was cut into, the slot it sits in, or the room behind it.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import fc from "fast-check";
import { kvOf } from "../../../test/contract/harness.ts";
import { syntheticModel } from "../../../test/contract/synthetic.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { Backend, Compiled, Outputs } from "../backend.ts";
import { createCpuBackend } from "./index.ts";

/** Wide enough that experts and the head are cut in parts, and no multiple of a vector register. */
const model = syntheticModel({ hidden_size: 96, intermediate_size: 192, num_attention_heads: 6, num_key_value_heads: 2, vocab_size: 4098 });
const { program } = model;
const { hidden } = program;
const rowsMax = 64;

const open: Backend[] = [];
async function backend(threads: number, denseBits: 8 | 32 = 32): Promise<Backend> {
  const created = await createCpuBackend({ threads, denseBits });
  open.push(created);
  return created;
}
after(async () => {
  for (const each of open) await each.close();
});

const input = randomTensor(3, [rowsMax, hidden]).data as Float32Array;
const rows = (from: number, count: number): { x: Tensor } => ({
  x: { shape: [count, hidden], data: input.slice(from * hidden, (from + count) * hidden) },
});
const bits = (outputs: Outputs): Uint32Array => {
  const [first] = Object.values(outputs);
  return new Uint32Array((first!.data as Float32Array).slice().buffer);
};

for (const form of ["f32", "int4"] as const) {
  test(`${form} experts: any rows in any batch, on 1, 2 or 3 threads, give the same bits`, async () => {
    const weights = model.expert(0, 1, form);
    const experts = await Promise.all([1, 2, 3].map(async (threads) => (await backend(threads)).compile(model.expertSegment, weights)));
    const want = bits(await experts[0]!.run(rows(0, rowsMax)));
    await fc.assert(
      fc.asyncProperty(fc.nat(2), fc.nat(rowsMax - 1), fc.integer({ min: 1, max: rowsMax }), async (which, from, count) => {
        const n = Math.min(count, rowsMax - from);
        const got = bits(await experts[which]!.run(rows(from, n)));
        assert.deepEqual(got, want.slice(from * hidden, (from + n) * hidden));
      }),
      { numRuns: 150 },
    );
  });
}

for (const denseBits of [32, 8] as const) {
  test(`head with ${denseBits}-bit weights: rows give the same bits in any batch and on any threads`, async () => {
    const heads = await Promise.all(
      [1, 2].map(async (threads) => (await backend(threads, denseBits)).compile(program.head, model.weights(program.head))),
    );
    const want = bits(await heads[0]!.run(rows(0, 17)));
    for (const head of heads) {
      for (const [from, n] of [
        [0, 1],
        [16, 1],
        [3, 2],
        [5, 12],
      ] as const) {
        assert.deepEqual(bits(await head.run(rows(from, n))), want.slice(from * program.vocab, (from + n) * program.vocab));
      }
    }
  });
}

const spec = { ...kvOf(program), context: 80 };

/** Outputs of the block for the rows of one sequence, fed in chunks to one slot; null = a decode step of one token. */
async function feed(b: Backend, block: Compiled, slot: number, slots: number, chunks: readonly number[]): Promise<Uint32Array[]> {
  const cache = await b.createKv({ ...spec, slots });
  const out: Uint32Array[] = [];
  let past = 0;
  for (const tokens of chunks) {
    const outputs = await block.run(rows(past, tokens), { cache, firstSlot: slot, batch: 1, tokens, past: Int32Array.of(past) });
    out.push(bits({ h: outputs.h! }));
    past += tokens;
  }
  await cache.dispose();
  return out;
}

const flat = (parts: readonly Uint32Array[]): number[] => parts.flatMap((part) => [...part]);

for (const denseBits of [32, 8] as const) {
  test(`attention, ${denseBits}-bit weights: a prompt's bits do not depend on its chunks nor on its slot`, async () => {
    const b = await backend(2, denseBits);
    const block = await b.compile(model.blocks[0]!, model.weights(model.blocks[0]!));
    const want = flat(await feed(b, block, 0, 1, [rowsMax]));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 2, max: 30 }), { minLength: 1, maxLength: 20 }), fc.nat(2), async (sizes, slot) => {
        const chunks: number[] = [];
        for (let left = rowsMax; left > 0; ) {
          const size = Math.min(left, sizes[chunks.length % sizes.length]!);
          chunks.push(left - size === 1 ? left : size); // never leaves a single token: that would be a decode step
          left -= chunks.at(-1)!;
        }
        assert.deepEqual(flat(await feed(b, block, slot, 3, chunks)), want);
      }),
      { numRuns: 40 },
    );
    await block.dispose();
  });

  test(`attention, ${denseBits}-bit weights: a decode step's bits do not depend on mates, their lengths, or the slot`, async () => {
    const b = await backend(2, denseBits);
    const block = await b.compile(model.blocks[1]!, model.weights(model.blocks[1]!));
    const lengths = [5, 33, 1, 12];
    const alone: number[][] = [];
    for (const [i, length] of lengths.entries()) {
      const cache = await b.createKv({ ...spec, slots: 1 });
      await block.run(rows(i, length), { cache, firstSlot: 0, batch: 1, tokens: length, past: Int32Array.of(0) });
      const step = await block.run(rows(40 + i, 1), { cache, firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(length) });
      alone.push([...bits({ h: step.h! })]);
    }
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([0, 1, 2, 3], { minLength: 1 }), fc.nat(2), async (order, firstSlot) => {
        const cache = await b.createKv({ ...spec, slots: 6 });
        for (const [at, i] of order.entries()) {
          const call = { cache, firstSlot: firstSlot + at, batch: 1, tokens: lengths[i]!, past: Int32Array.of(0) };
          await block.run(rows(i, lengths[i]!), call);
        }
        const data = Float32Array.from(order.flatMap((i) => [...input.subarray((40 + i) * hidden, (41 + i) * hidden)]));
        const past = Int32Array.from(order, (i) => lengths[i]!);
        const outputs = await block.run(
          { x: { shape: [order.length, hidden], data } },
          { cache, firstSlot, batch: order.length, tokens: 1, past },
        );
        assert.deepEqual(
          [...bits({ h: outputs.h! })],
          order.flatMap((i) => alone[i]!),
        );
      }),
      { numRuns: 40 },
    );
    await block.dispose();
  });
}

test("a cache whose layout grew with a long neighbour, and shrank after it, gives the bits of a fresh one", async () => {
  const b = await backend(1);
  const block = await b.compile(model.blocks[0]!, model.weights(model.blocks[0]!));
  const cache = await b.createKv({ ...spec, context: 500, slots: 3 });
  const run = async (kv: typeof cache, slot: number, from: number, tokens: number, past: number): Promise<Uint32Array> =>
    bits({ h: (await block.run(rows(from, tokens), { cache: kv, firstSlot: slot, batch: 1, tokens, past: Int32Array.of(past) })).h! });
  const fresh = await b.createKv({ ...spec, context: 500, slots: 1 });
  await run(fresh, 0, 3, 20, 0);
  const want = await run(fresh, 0, 50, 1, 20);
  await run(cache, 0, 9, 40, 0);
  await run(cache, 1, 3, 20, 0);
  for (let past = 0; past < 450; past += 50) await run(cache, 2, 5, 50, past); // 64 -> 128 -> 256 -> 500 positions a row
  assert.deepEqual(await run(cache, 1, 50, 1, 20), want);
  await cache.copySlot(1, 0, 20);
  assert.deepEqual(await run(cache, 0, 50, 1, 20), want);
  await run(cache, 2, 5, 3, 0); // a short prompt takes the long slot: rows shrink
  assert.deepEqual(await run(cache, 0, 50, 1, 20), want);
  assert.deepEqual(await run(cache, 1, 50, 1, 20), want);
  await block.dispose();
});

test("parts of experts on other threads are summed in part order: many at once give what each gives alone", async () => {
  const b = await backend(3);
  const experts = await Promise.all([0, 1, 2, 3].map((e) => b.compile(model.expertSegment, model.expert(1, e, "int4"))));
  const alone = [];
  for (const [e, expert] of experts.entries()) alone.push(bits(await expert.run(rows(e, e + 1))));
  const calls = experts.map((expert, e) => ({ program: expert, inputs: rows(e, e + 1) }));
  for (let i = 0; i < 20; i++) assert.deepEqual((await b.runMany(calls)).map(bits), alone);
});

test("a graph that ONNX Runtime refuses on a helper thread is an error, and the helper works on", async () => {
  const b = await backend(2);
  const weights = model.expert(0, 0);
  const broken = { ...model.expertSegment, weights: model.expertSegment.weights.map((w) => ({ ...w, shape: [0, 0] })) };
  const empty = Object.fromEntries(
    model.expertSegment.weights.map(({ name }) => [name, { form: "f32" as const, shape: [0, 0], data: new Float32Array(0) }]),
  );
  await assert.rejects(async () => {
    const compiled = await b.compile(broken, empty);
    await compiled.run(rows(0, 1));
  });
  const expert = await b.compile(model.expertSegment, weights);
  assert.equal((await expert.run(rows(0, 2))).y?.data.length, 2 * hidden);
});
