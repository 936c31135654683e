// KV memory as the scheduler uses it, against the reference: slots that grow in turns, are copied, moved and trimmed in a pool that holds
// far fewer positions than all of them could have, and a sick request beside sound ones.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { KvType } from "../../crds/names.ts";
import type { Backend, Compiled, KvCache } from "../../runtime/compute/backend.ts";
import { kvBlockTokens } from "../../runtime/compute/kv-size.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { createReferenceBackend } from "../../runtime/compute/reference.ts";
import { gaussian, randomTensor } from "../../runtime/kernels/random.ts";
import { kvOf } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

const [slots, context, poolBlocks, steps] = [6, 300, 9, 120] as const;

const model = syntheticModel();
const block = model.blocks[0]!;
const { hidden } = model.program;

interface Side {
  readonly program: Compiled;
  readonly cache: KvCache;
}

async function open(backend: Backend, blocks: number, type: KvType = "f32"): Promise<Side> {
  const program = await backend.compile(block, model.weights(block));
  return { program, cache: await backend.createKv({ ...kvOf(model.program), slots, context, poolBlocks: blocks, type }) };
}

async function rowsOf({ program, cache }: Side, firstSlot: number, past: readonly number[], x: Float32Array): Promise<Float32Array> {
  const tokens = x.length / hidden / past.length;
  const call = { cache, groups: [{ firstSlot, batch: past.length, tokens, past: Int32Array.from(past) }] };
  return ((await program.run({ x: { shape: [x.length / hidden, hidden], data: x } }, call)).h!.data as Float32Array).slice();
}

export interface KvPoolOptions {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  readonly tolerance: number;
  /** Of keys and values; f32 unless said otherwise. */
  readonly type?: KvType;
}

export function runKvPool(options: KvPoolOptions): void {
  const { type } = options;
  describe(`KV pool: ${options.name}${type === undefined ? "" : `, ${type}`}`, () => {
    test("slots grow in turns, are copied, moved and trimmed in a small pool, and rows are those of the reference", async () => {
      const backend = await options.make();
      const [mine, theirs] = [await open(backend, poolBlocks, type), await open(await createReferenceBackend({ threads: 1 }), slots * 5)];
      const lengths = new Array<number>(slots).fill(0);
      const blocksOf = (length: number): number => Math.ceil(length / kvBlockTokens(context));
      const drawn = gaussian(11, 3 * steps).map((value) => Math.abs(value * 1e4));
      const fits = (changed: readonly number[]): boolean => changed.reduce((sum, length) => sum + blocksOf(length), 0) <= poolBlocks;
      let [computed, copied, moved] = [0, 0, 0];
      for (let step = 0; step < steps; step++) {
        const [what = 0, a = 0, b = 0] = drawn.slice(3 * step, 3 * step + 3).map(Math.floor);
        const [from, to] = [a % slots, b % slots];
        const after = [...lengths];
        if (what % 8 < 5) {
          const prefill = what % 8 < 2;
          const batch = prefill ? 1 : 1 + (b % (slots - from));
          const tokens = prefill ? 1 + (b % 90) : 1;
          for (let i = 0; i < batch; i++) after[from + i] = after[from + i]! + tokens;
          if (!fits(after) || after.some((length) => length > context)) {
            for (const side of [mine, theirs]) side.cache.trimSlot(from, lengths[from]! >> 1);
            lengths[from] = lengths[from]! >> 1;
            continue;
          }
          const x = randomTensor(500 + step, [batch * tokens, hidden]).data as Float32Array;
          const past = lengths.slice(from, from + batch);
          const [got, want] = [await rowsOf(mine, from, past, x), await rowsOf(theirs, from, past, x)];
          const error = relativeError(got, want);
          assert.ok(error <= options.tolerance, `step ${step}: ${error} of rows on top of ${past} in slots from ${from}`);
          computed += 1;
        } else if (from !== to) {
          const length = lengths[from]! - (b % 3 === 0 ? Math.min(lengths[from]!, 5) : 0);
          after[to] = length;
          const moves = what % 8 === 5;
          if (moves) after[from] = 0;
          if (!fits(after)) continue;
          if (moves) for (const { cache } of [mine, theirs]) cache.trimSlot(to, 0);
          for (const { cache } of [mine, theirs]) await (moves ? cache.moveSlot(from, to, length) : cache.copySlot(from, to, length));
          if (moves) moved += 1;
          else copied += 1;
        }
        lengths.splice(0, slots, ...after);
      }
      assert.ok(computed > 30 && copied > 5 && moved > 1, `${computed} computed, ${copied} copied, ${moved} moved`);
      for (const { cache, program } of [mine, theirs]) {
        await cache.dispose();
        await program.dispose();
      }
      await backend.close();
    });

    test("positions that are read and written elsewhere, behind others too, go on as the original does", async () => {
      const backend = await options.make();
      const [from, to] = [await open(backend, poolBlocks, type), await open(backend, poolBlocks, type)];
      const [x, next] = [150, 1].map((rows) => randomTensor(702 + rows, [rows, hidden]).data as Float32Array) as [
        Float32Array,
        Float32Array,
      ];
      await rowsOf(from, 1, [0], x);
      const write = (slot: number, at: number, count: number): void => to.cache.writeRows(slot, at, from.cache.readRows(1, at, count));
      for (const [at, count] of [
        [0, 64],
        [64, 64],
        [128, 22],
      ] as const)
        write(3, at, count);
      await to.cache.copySlot(3, 4, 100);
      write(4, 100, 50);
      assert.deepEqual(to.cache.readRows(4, 0, 150), from.cache.readRows(1, 0, 150));
      assert.equal(to.cache.readRows(4, 0, 150).byteLength, 150 * to.cache.positionBytes);
      const want = await rowsOf(from, 1, [150], next);
      for (const slot of [3, 4]) {
        const got = await rowsOf(to, slot, [150], next);
        if (backend.numericClass === "exact") assert.deepEqual(got, want);
        else assert.ok(relativeError(got, want) <= options.tolerance);
      }
      assert.throws(() => to.cache.readRows(0, 290, 20), { code: "InvalidArgument" });
      await backend.close();
    });

    test("rows that are no numbers spoil none of those beside them, nor of those that come after them", async () => {
      const backend = await options.make();
      const [sick, sound] = [await open(backend, poolBlocks, type), await open(backend, poolBlocks, type)];
      const x = randomTensor(700, [2, hidden]).data as Float32Array;
      const spoilt = x.slice();
      for (const [i, value] of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].entries()) {
        spoilt.fill(value, 0, hidden);
        const [got, want] = [await rowsOf(sick, 0, [i, i], spoilt), await rowsOf(sound, 0, [i, i], x)];
        assert.ok(!got.subarray(0, hidden).every(Number.isFinite), "the sick one is seen to be sick");
        assert.ok(relativeError(got.subarray(hidden), want.subarray(hidden)) <= options.tolerance, `beside ${value}`);
      }
      for (const { cache } of [sick, sound]) cache.trimSlot(0, 0);
      const next = randomTensor(701, [5, hidden]).data as Float32Array;
      const [got, want] = [await rowsOf(sick, 0, [0], next), await rowsOf(sound, 0, [0], next)];
      assert.ok(relativeError(got, want) <= options.tolerance, "after it");
      await backend.close();
    });
  });
}
