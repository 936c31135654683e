import assert from "node:assert/strict";
import { test } from "node:test";
import { codecNames } from "../../crds/names.ts";
import type { Segment } from "../../runtime/kernels/segment.ts";
import { programOf } from "../../runtime/models/index.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { tinyStore } from "../kit/ranks/ranks.ts";
import { checkMemory, readArgs } from "./serve.ts";
import { sizesOf } from "./speed.ts";
import { best, hogTable, type ModelSizes, median, ratioOf, speedRow, tokenCost } from "./speed-rows.ts";
import { splitRows, withoutGate } from "./split.ts";

const limits = { gigabytesPerSecond: 50, gigaflops: 100 };
const cost = { bytes: 2e8, flops: 5e8 };
const ours = new Map([
  [1, [100, 80, 90]],
  [2, [40, 50, 45]],
]);
const llama = new Map([
  [1, [70, 70, 70]],
  [2, [100, 100, 75]],
]);

test("a row has each engine at its better number of threads, the ratio of the rounds, and the shares of what the machine allows", () => {
  assert.deepEqual(speedRow({ name: "decode, batch 1", ours, llama, least: 1, cost }, limits), {
    ...{ case: "decode, batch 1", tokensPerSecond: 90, threads: 1, llama: 100, llamaThreads: 2, ratio: 1, least: 1, ok: true },
    ...{ ofBandwidth: "36%", ofFlops: "45%" },
  });
  assert.equal(speedRow({ name: "x", ours, llama, least: 1.25, cost }, limits).ok, false);
});

test("without the other engine there is no ratio and no verdict", () => {
  const { llama: rate, llamaThreads, ratio, ok } = speedRow({ name: "x", ours, llama: new Map(), least: 1, cost }, limits);
  assert.deepEqual([rate, llamaThreads, ratio, ok], ["-", "-", "-", "-"]);
});

test("the ratio is that of neighbours in time, not of medians", () => {
  assert.equal(ratioOf([100, 50, 20], [50, 25, 40]), 2);
  assert.equal(ratioOf([100, 50], [50]), 2);
  assert.deepEqual([median([3, 1, 2]), median([1, 2, 3, 4]), median([])], [2, 2.5, 0]);
  assert.equal(best(new Map()), undefined);
});

test("a step reads the dense part once for all rows, and each expert that one of them chose once", () => {
  const sizes: ModelSizes = {
    ...{ layers: 2, experts: 4, topK: 2, attention: 100, head: 50, expert: 30, denseBytes: 2, expertBytes: 10 },
  };
  assert.deepEqual(tokenCost(sizes, "decode", 1), { bytes: 2 * 250 + 2 * 2 * 10, flops: 2 * (2 * 160 + 50) });
  assert.equal(tokenCost(sizes, "decode", 2).bytes, (2 * 250 + 2 * 3 * 10) / 2);
  assert.deepEqual(tokenCost(sizes, "prefill", 2), { bytes: (2 * 200 + 2 * 3 * 10) / 2, flops: 2 * 2 * 160 });
});

test("a value of the dense part has the bytes that it is given beside experts of the codec", async () => {
  const { dir, remove } = await tinyStore();
  try {
    const store = await openStore(dir);
    const bytes = (["f32", "f16", "bf16", "q4_0"] as const).map((codec) => sizesOf(store, { codec }).denseBytes);
    await store.close();
    assert.deepEqual(bytes, [4, 2, 2, 34 / 32]);
  } finally {
    remove();
  }
});

test("options are read; threads are one and all cores, the codec the first that is quantized", async () => {
  const { dir, remove } = await tinyStore();
  try {
    const { threads, runs, codec, alone, storeDir } = await readArgs(["--store", dir, "--alone"], [], 4);
    assert.deepEqual([threads, runs, codec, alone, storeDir], [[1, 4], 3, "f32", true, dir]);
    assert.deepEqual((await readArgs(["--store", dir], [], 1)).threads, [1]);
    const { threads: three, own } = await readArgs(["--store", dir, "--threads", "3", "--ranks", "1,2"], ["ranks", "cpus"], 4);
    assert.deepEqual([three, own], [[3], { ranks: "1,2" }]);
  } finally {
    remove();
  }
});

for (const [args, message] of [
  [["--threads", "0"], /--threads: "0" is no count/],
  [["--runs", "many"], /--runs: "many" is no count/],
  [["--codec", "int5"], new RegExp(`--codec: "int5" is none of ${codecNames[0]}`)],
  [["--backend", "abacus"], /--backend: "abacus" is none of/],
  [["--stor", "x"], /--stor/],
] as const) {
  test(`${args.join(" ")} is refused`, async () => {
    await assert.rejects(readArgs([...args, "--alone"]), { code: "InvalidOption", message });
  });
}

test("a hog's rows: each number of threads beside it, against one thread without it", () => {
  const rows = hogTable("decode", [100, 80, 100], { ours: new Map([[1, [95, 76, 90]]]), llama: new Map([[2, [30, 20, 40]]]) });
  assert.deepEqual(
    rows.map(({ threads, ratio, ok, llama: theirs }) => [threads, ratio, ok, theirs]),
    [
      [1, 0.95, true, "-"],
      [2, 0.95, true, 30],
    ],
  );
});

test("a step is split into its parts, which make up the whole; what was measured apart takes no more than there is", () => {
  const apart = { gateShare: 0.25, head: 2, combine: 1 };
  const rows = splitRows("decode", 10, { wall: 20, step: 18, dense: 8, experts: 6, computed: 5 }, apart);
  assert.deepEqual(
    rows.map(({ microsecondsPerLayer }) => microsecondsPerLayer),
    [600, 200, 100, 500, 100, 200, 100, 200],
  );
  const short = splitRows("decode", 1, { wall: 3, step: 3, dense: 1, experts: 1, computed: 1 }, apart);
  assert.deepEqual(
    short.map(({ microsecondsPerLayer }) => microsecondsPerLayer),
    [750, 250, 0, 1000, 0, 1000, 0, 0],
  );
});

test("a block without its gate has no router and no choice left, and all else", async () => {
  const { dir, remove } = await tinyStore();
  try {
    const store = await openStore(dir);
    const { block } = programOf(store.config).layers[0] as { block: Segment };
    await store.close();
    const { ops, outputs, weights } = withoutGate(block);
    assert.deepEqual(
      outputs.map(({ name }) => name),
      ["h", "f"],
    );
    assert.equal(ops.length, block.ops.length - 2);
    assert.ok(!weights.some(({ name }) => name.includes("gate")) && weights.length === block.weights.length - 1);
  } finally {
    remove();
  }
});

test("engines that the machine has no memory for are refused by numbers, before it ends the process", () => {
  checkMemory(2e9, "2 engines", 2e9);
  const message = "2 engines: 35.1 GB of memory are needed, 24.0 GB are free";
  assert.throws(() => checkMemory(35.1e9, "2 engines", 24e9), { code: "InsufficientMemory", message });
});
