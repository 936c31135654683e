// Traces, and replays of them whose hits, bytes and milliseconds are known by hand or by what bounds them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { gridOf } from "../../placement/grid.ts";
import { evictions } from "../cache/index.ts";
import { predictors } from "../prefetch/index.ts";
import { Disk } from "./disk.ts";
import { hasOneRouter, recallOf, shuffled } from "./recall.ts";
import { type ReplayOptions, replay } from "./replay.ts";
import { topicUses } from "./topics.ts";
import { type ExpertTrace, expertTraceText, noExpert, parseExpertTrace, stepsOf, traceTokensMax } from "./trace.ts";

const [layers, experts, topK, texts, length] = [5, 8, 2, 6, 50] as const;

/** Layer 1 is dense. A token's way is by one rule from a start that changes rarely; routers ahead are right. */
function planted(): ExpertTrace {
  const grid = gridOf(Array.from({ length: layers }, (_, layer) => (layer === 1 ? 0 : experts)));
  const draw = uniform(11);
  const tokens = texts * length;
  const ids = new Uint16Array(tokens * layers * topK).fill(noExpert);
  let start = 0;
  for (let token = 0; token < tokens; token++) {
    if (draw() < 0.4) start = Math.floor(draw() * experts);
    for (let layer = 0; layer < layers; layer++)
      if (layer !== 1) for (let k = 0; k < topK; k++) ids[(token * layers + layer) * topK + k] = (start * 3 + layer * 5 + k) % experts;
  }
  const ahead = ids.map((_, at) => {
    const layer = Math.floor(at / topK) % layers;
    return layer === 1 ? noExpert : (ids[at + (layer === 0 ? 2 : 1) * topK] ?? noExpert);
  });
  const asked = [
    { input: "same" as const, distance: 1, ids: ahead.map((id, at) => (Math.floor(at / topK) % layers === 4 ? noExpert : id)) },
  ];
  const each = Array.from({ length: texts }, (_, i) => ({ topic: i % 2 ? "law" : "code", prompt: 10, generated: length - 10 }));
  return { modelDigest: "d", grid, topK, expertBytes: [1e6, 0, 1e6, 1e6, 1e6], layerMs: 1, texts: each, ids, width: topK, asked };
}
const trace = planted();
const base = { trace, foresight: undefined, share: 0.5, bytesPerSecond: 1e9, layerMs: 1, batch: 1, lookahead: 1, perTopK: 1 } as const;
const run = (options: Partial<ReplayOptions>) => replay({ ...base, eviction: evictions.lru, ...options });

test("a trace is read as it was written, and a broken one is refused by its field", () => {
  const text = expertTraceText(trace);
  assert.deepEqual(parseExpertTrace(text), trace);
  const broken = (change: (json: Record<string, unknown>) => void): string => {
    const json = JSON.parse(text);
    change(json);
    return JSON.stringify(json);
  };
  const cases: [RegExp, string][] = [
    [/no JSON/, "{"],
    [/version/, broken((json) => (json.version = 2))],
    [/ids: .* and not tokens x layers x width = 3000/, broken((json) => (json.ids = "AAAA"))],
    [/ids: number 0 is expert 9 of 8/, broken((json) => (json.ids = Buffer.alloc(6000, Uint8Array.of(9, 0)).toString("base64")))],
    [/expertBytes: of 1 layers, and not 5/, broken((json) => (json.expertBytes = [1]))],
    [/layerMs/, broken((json) => (json.layerMs = -1))],
  ];
  for (const [want, given] of cases) assert.throws(() => parseExpertTrace(given), want);
});

test("a trace that no string holds is neither recorded nor written", () => {
  const sizes = { layers: 30, topK: 2, width: 8, asks: 4 };
  const perToken = (30 * (2 + 4 * 8) * 8) / 3;
  const most = traceTokensMax(sizes);
  assert.ok(most * perToken <= 500 * 2 ** 20 && (most + 1) * perToken > 500 * 2 ** 20);
  assert.equal(traceTokensMax({ ...sizes, asks: 0 }), Math.floor((128 * 2 ** 20) / 60));
  const long = { ...trace, texts: [{ topic: "a", prompt: 1, generated: 2 ** 30 }] };
  assert.throws(() => expertTraceText(long), /texts: 1073741825 tokens, at most \d+/);
});

test("texts together are prompts, then a token of each at once", () => {
  const steps = stepsOf(
    [
      { topic: "a", prompt: 2, generated: 2 },
      { topic: "b", prompt: 1, generated: 1 },
    ],
    2,
  );
  assert.deepEqual(
    steps.map(({ tokens, prompt }) => [prompt, ...tokens]),
    [
      [true, 0, 1],
      [true, 4],
      [false, 2, 5],
      [false, 3],
    ],
  );
});

test("with all experts in memory nothing is read, and with less every miss is a whole expert that a step waits for", () => {
  const whole = run({ share: 1 });
  assert.deepEqual([whole.hitRate, whole.stallMs, whole.bytes], [1, 0, 0]);
  const half = run({});
  const misses = (1 - half.hitRate) * 4 * topK;
  assert.ok(misses > 0.2);
  assert.ok(Math.abs(half.bytes - misses * 1e6) < 1 && Math.abs(half.stallMs - misses) < 1e-6);
  assert.ok(Math.abs(run({ bytesPerSecond: 5e8 }).stallMs - 2 * half.stallMs) < 1e-6);
});

test("without prefetch no eviction hits more than belady, and who knows what comes waits no more than the disk needs", () => {
  for (const share of [0.35, 0.5, 0.75]) {
    const best = run({ share, eviction: evictions.belady });
    for (const name of ["lru", "lfu", "next-use"] as const) assert.ok(run({ share, eviction: evictions[name] }).hitRate <= best.hitRate);
  }
  const fast = { bytesPerSecond: 4e9 };
  const known = run({ ...fast, foresight: "future" });
  assert.ok(known.stallMs < run(fast).stallMs / 2 && known.wastedBytes === 0);
  assert.equal(run({ ...fast, foresight: predictors["next-gate"] }).stallMs, known.stallMs);
  assert.ok(run({ ...fast, foresight: predictors.random }).stallMs > known.stallMs);
  assert.ok(run({ ...fast, foresight: predictors.ring }).bytes > known.bytes);
});

test("recall is 1 for routers that are right, high for what is learned, by chance at random, and no more than frequency when shuffled", () => {
  const recall = (name: keyof typeof predictors, of = trace) => recallOf(of, predictors[name], 1).once;
  assert.equal(recall("next-gate"), 1);
  assert.ok(recall("transitions") > 0.9);
  assert.ok(Math.abs(recall("random") - topK / experts) < 0.08);
  const mixed = shuffled(trace, uniform(2));
  assert.ok(Math.abs(recall("transitions", mixed) - recall("frequency", mixed)) < 0.1);
  assert.ok(recall("transitions", mixed) < 0.5);
  assert.ok(!hasOneRouter(trace));
});

test("a disk serves who waits before what was asked ahead, but lets a transfer end", () => {
  const arrived: string[] = [];
  const there = new Set<number>();
  const disk = new Disk({
    msOf: () => 4,
    admit: (unit) => !there.has(unit),
    arrived: (unit, ahead) => {
      there.add(unit);
      arrived.push(`${unit}${ahead ? " ahead" : ""}`);
    },
  });
  disk.ahead([1, 2, 3]);
  disk.pass(5); // 1 is there, 2 has a quarter
  assert.equal(disk.demand([2]), 3);
  assert.equal(disk.demand([9]), 4);
  disk.pass(1); // 3 begins
  assert.equal(disk.demand([8]), 3 + 4);
  assert.deepEqual(arrived, ["1 ahead", "2", "9", "3 ahead", "8"]);
  disk.ahead([5]);
  disk.pass(1);
  assert.equal(disk.demand([4, 5]), 3 + 4, "5 comes while 4 waits, and is not fetched again");
  assert.deepEqual(arrived.slice(5), ["5 ahead", "4"]);
});

test("the use of experts is counted by topic: even shares are 1, and topics with experts of their own are apart", () => {
  const own = { ...trace, ids: trace.ids.slice() };
  for (let token = 0; token < texts * length; token++)
    for (let at = 0; at < layers * topK; at++) {
      const odd = Math.floor(token / length) % 2;
      if (own.ids[token * layers * topK + at] !== noExpert) own.ids[token * layers * topK + at] = odd * 4 + (at % topK);
    }
  const [code, law] = topicUses(own);
  assert.deepEqual([code?.topic, code?.tokens, law?.apart, code?.use.length], ["code", 150, 0.5, 4]);
  assert.deepEqual(law?.use[0], [0, 0, 0, 0, 4, 4, 0, 0]);
});
