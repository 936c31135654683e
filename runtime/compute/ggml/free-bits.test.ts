// What a device whose bits are free is given: nodes in the order in which ggml makes one kernel of several, streams of a group in one
// operation, one read a range, and numbers that stay finite without clamps.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { after, before, test } from "node:test";
import { looseBackend } from "../../../test/kit/devices/loose.ts";
import { modelOf } from "../../../test/kit/models/golden-files.ts";
import { kvOf, type LoadedModel, loadModel } from "../../../test/kit/models/small-engine.ts";
import { compileHead } from "../../engine/pass/head.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Op } from "../../kernels/segment.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import type { Compiled, KvCache } from "../backend.ts";
import { relativeError } from "../op-self-test.ts";
import type { PoolKv } from "./kv-pool.ts";
import type { DenseProgram } from "./program.ts";

const { backend, work } = looseBackend();
const context = 512;
let model: LoadedModel;
let hidden = 0;
let ends: { readonly embed: Compiled; readonly head: Compiled };
let cacheOf: (slots: number, poolBlocks: number) => Promise<KvCache>;
before(async () => {
  const folder = resolve(import.meta.dirname, "../../../test/golden/families/qwen3-moe");
  const checkpoint = await openCheckpoint(folder);
  const loaded = modelOf(folder, checkpoint);
  model = await loadModel(backend, loaded, { context });
  const { embed, head } = loaded.program;
  ends = {
    embed: await backend.compile(embed, await loaded.weights(embed)),
    head: await compileHead(backend, loaded.program, await loaded.weights(head)),
  };
  await checkpoint.close();
  hidden = loaded.program.hidden;
  cacheOf = (slots, poolBlocks) => backend.createKv({ ...kvOf(loaded.program), slots, context, poolBlocks });
});
after(() => backend.close());

/** Layers 0 to 2 of rows of so many tokens on top of each slot's, and what that took. */
async function run(cache: KvCache, past: readonly number[], tokens = 1, x = randomTensor(3, [past.length * tokens, hidden]).data) {
  for (const list of [work.graphs, work.reads, work.writes]) list.length = 0;
  const kv = { cache, groups: [{ firstSlot: 0, batch: past.length, tokens, past: Int32Array.from(past) }] };
  const out = await model.range.run({ x: x as Float32Array, kv, from: 0, to: 3 });
  return { x: out.x, nodes: work.graphs.flat(), graphs: work.graphs.length, reads: [...work.reads], writes: [...work.writes] };
}
const count = (nodes: readonly string[], node: string): number => nodes.filter((each) => each === node).length;

test("a range is one graph and one read, and its nodes come as fused kernels want them", async () => {
  const cache = await cacheOf(1, 8);
  const { nodes, graphs, reads } = await run(cache, [0]);
  assert.deepEqual([graphs, reads.length], [1, 1]);
  const text = nodes.join(" ");
  for (const [pattern, times] of Object.entries({
    "RMS_NORM MUL ROPE VIEW SET_ROWS SET_ROWS": 3,
    "RESHAPE ARGSORT VIEW GET_ROWS RESHAPE SOFT_MAX RESHAPE": 2,
    "MUL_MAT_ID MUL_MAT_ID SWIGLU": 2,
    "MUL VIEW VIEW VIEW ADD ADD ADD": 2,
  }))
    assert.equal(text.split(pattern).length - 1, times, `${pattern} in ${text}`);
  assert.equal(count(nodes, "CONT"), 1, "the ids of all layers are copied at once");
  await cache.dispose();
});

test("tokens are one graph and one read, from their ids to candidates; rows come along only where one is no number", async () => {
  const cache = await cacheOf(2, 8);
  const range = backend.createRange(model.layers, ends);
  const [tokens, sharpness] = [Int32Array.of(5, 6), Float32Array.of(1)];
  const call = { kv: { cache, groups: [{ firstSlot: 0, batch: 2, tokens: 1, past: new Int32Array(2) }] }, from: 0, to: 3 };
  const x = (await ends.embed.run({ ids: { shape: [2], data: tokens } })).x?.data.slice() as Float32Array;
  const second = (await range.run({ ...call, x })).x.slice(hidden);
  const want = await ends.head.run({ x: { shape: [1, hidden], data: second }, sharpness: { shape: [1, 1], data: sharpness } });
  const logits = ends.head.keptRow?.("logits", 0) as Float32Array;
  for (const given of [tokens, x.slice().fill(Number.NaN, 0, hidden)]) {
    for (const list of [work.graphs, work.reads]) list.length = 0;
    const sick = given !== tokens;
    const { x: rows, head } = await range.run({ ...call, x: given, head: { rows: [1], sharpness } });
    assert.deepEqual([work.graphs.length, work.reads.length], sick ? [2, 2] : [1, 1]);
    assert.deepEqual([rows.length, rows.slice(0, hidden).some(Number.isFinite)], [sick ? 2 * hidden : 0, false]);
    assert.deepEqual(head?.outputs.ids?.data, want.ids?.data);
    assert.ok(relativeError(head?.keptRow("logits", 0) as Float32Array, logits) < 1e-5);
    await run(cache, [1, 1]);
    assert.throws(() => head?.keptRow("logits", 0), /another run/);
  }
  const chunk = await range.run({ ...call, x: tokens, head: { rows: [], sharpness: new Float32Array() } });
  assert.deepEqual([chunk.x.length, chunk.head], [0, undefined]);
  await cache.dispose();
});

test("a layer whose experts are asked for apart is two reads: of its block, and of its experts' rows", async () => {
  work.reads.length = 0;
  await model.step([1], [{ firstSlot: 0, batch: 1, tokens: 1, past: new Int32Array(1) }], "layers");
  const [ends, withExperts, dense] = [2, 2, 1];
  assert.equal(work.reads.length, ends + 2 * withExperts + dense);
});

test("slots of a group are one operation, each over its own positions, also after others have left", async () => {
  const cache = await cacheOf(8, 64);
  const halves = 2;
  const lengths = Array.from({ length: 8 }, (_, slot) => 150 + slot);
  await run(
    cache,
    lengths.map(() => 0),
    150,
  );
  const { nodes, writes } = await run(
    cache,
    lengths.map(() => 150),
  );
  assert.equal(count(nodes, "FLASH_ATTN_EXT"), 3);
  assert.ok(writes.includes(8 * 256 * halves), `a mask of eight times 256 positions among ${writes}`);
  await cache.moveSlot(7, 2, 151);
  assert.equal(
    count(
      (
        await run(
          cache,
          lengths.slice(0, 7).map(() => 151),
        )
      ).nodes,
      "FLASH_ATTN_EXT",
    ),
    3,
  );
  await cache.copySlot(0, 3, 151);
  assert.equal(
    count(
      (
        await run(
          cache,
          lengths.slice(0, 7).map(() => 151),
        )
      ).nodes,
      "FLASH_ATTN_EXT",
    ),
    3 * 3,
    "what is shared lies elsewhere",
  );
  await cache.dispose();
});

test("many streams of mixed lengths read about twice what they have, in few operations", async () => {
  const cache = (await backend.createKv({ ...shape, slots: 24, context: 4096 })) as PoolKv;
  const past = Int32Array.from({ length: 24 }, (_, slot) => (slot % 2 === 0 ? 100 : 3000));
  const runs = cache.runsOf({ firstSlot: 0, batch: 24, tokens: 1, past });
  const reads = runs.reduce((sum, { batch, length, step }) => sum + length * (step === undefined ? 24 : batch), 0);
  assert.ok(runs.length <= 8 && reads < 2.1 * past.reduce((a, b) => a + b), `${reads} positions in ${runs.length} operations`);
  await cache.dispose();
});

test("rows that are no numbers, or whose squares are none, are read and leave none in the memory that others read", async () => {
  const [sick, sound] = [await cacheOf(4, 8), await cacheOf(4, 8)];
  const x = randomTensor(5, [2, hidden]).data as Float32Array;
  for (const [past, value] of [Number.NaN, Number.POSITIVE_INFINITY, 1e30].entries()) {
    const spoilt = x.slice().fill(value, 0, hidden);
    const [got, want] = [await run(sick, [past, past], 1, spoilt), await run(sound, [past, past], 1, x)];
    assert.ok(!got.x.subarray(0, hidden).every((one) => Math.abs(one) < 1e20));
    assert.ok(relativeError(got.x.subarray(hidden), want.x.subarray(hidden)) < 1e-5, `beside ${value}`);
    assert.deepEqual([got.graphs, want.graphs], [2, 1]);
  }
  const [got, want] = [await run(sick, [0, 2], 1, x), await run(sound, [0, 2], 1, x)];
  assert.ok(relativeError(got.x, want.x) < 1e-5);
  await Promise.all([sick.dispose(), sound.dispose()]);
});

const width = 32;
const shape = { layers: 1, slots: 2, kvHeads: 1, headDim: width, valueDim: width, context, type: "f16" } as const;

/** Attention alone, by products if `software`. */
async function attentionOn(software: boolean, heads: number, options = {}) {
  const { backend } = looseBackend(options, software);
  const port = (name: string, of = 1) => ({ name, dtype: "f32", width: of * width }) as const;
  const rope = { interleaved: false, from: 0, frequencies: Array<number>(width / 2).fill(0), factor: 1 };
  const attention = { ...{ op: "attention", q: "q", k: "k", v: "v", out: "y" }, ...shape, layer: 0, heads, scale: 0.1, window: 0, rope };
  const [inputs, outputs] = [[port("q", heads), port("k"), port("v")], [port("y", heads)]];
  const program = await backend.compile({ name: "block", weights: [], inputs, ops: [attention as Op], outputs }, {});
  return { backend, program, cache: await backend.createKv(shape) };
}

test("a key beyond f16 whose own score is minus infinity leaves no infinity in the memory that others read", async () => {
  const { backend, program, cache } = await attentionOn(true, 1);
  const rows = (first: number, second: number) => {
    const data = new Float32Array(2 * width).fill(second).fill(first, 0, width);
    return { shape: [2, width], data };
  };
  for (const [past, k] of [1, 1e5, 1].entries()) {
    const groups = [{ firstSlot: 0, batch: 2, tokens: 1, past: Int32Array.of(past, past) }];
    const q = past === 1 ? rows(-1, -1) : rows(1, 1);
    const { y } = await program.run({ q, k: rows(k, 1), v: rows(1, 1) }, { cache, groups });
    const near = y?.data.every((value: number) => Math.abs(value - 1) < 1e-2);
    assert.ok(near, `after ${past} tokens`);
  }
  await backend.close();
});

test("the memory of the longest text's last step is taken when a model opens", async () => {
  for (const software of [false, true]) {
    const { backend, program, cache } = await attentionOn(software, 8, { rowsMax: 64, context });
    const opened = backend.workBytes([], 0, shape);
    (program as DenseProgram).tryOut(64, { cache, groups: [{ firstSlot: 0, batch: 1, tokens: 64, past: Int32Array.of(context - 64) }] });
    assert.equal(backend.workBytes([], 0, shape), opened, `${software}`);
    assert.equal(backend.takesManyRows(shape), !software);
    await backend.close();
  }
});
