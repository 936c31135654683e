// The split of a layer's experts over two engines: the best of all 2^E, and where it wins by planted tables.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { deal, type Engines, type ExpertSeconds } from "./deal.ts";
import { type EngineTimes, secondsOf } from "./times.ts";

function bestOfAll(experts: readonly ExpertSeconds[], starts: Engines<number>): number {
  let best = Number.POSITIVE_INFINITY;
  for (let split = 0; split < 2 ** experts.length; split++)
    best = Math.min(
      best,
      secondsOfSplit(experts, starts, (i) => ((split >> i) & 1) === 1),
    );
  return best;
}

function secondsOfSplit(experts: readonly ExpertSeconds[], starts: Engines<number>, onDevice: (i: number) => boolean): number {
  const taken = { device: 0, processor: 0 };
  for (const [i, expert] of experts.entries()) {
    const on = onDevice(i) ? "device" : "processor";
    taken[on] += expert[on] + (taken[on] === 0 ? starts[on] : 0);
  }
  return Math.max(taken.device, taken.processor);
}

const positive = fc.oneof(
  fc.integer({ min: 1, max: 6 }), // ties, and equal experts
  fc.double({ min: 1e-6, max: 10, noNaN: true }),
);
const expert = fc.record({
  device: fc.oneof({ weight: 4, arbitrary: positive }, { weight: 1, arbitrary: fc.constant(Infinity) }),
  processor: positive,
});
const start = fc.oneof(fc.constant(0), positive);
const starts = fc.record({ device: start, processor: start });

test("the split is the best of all, and says what it takes", () => {
  fc.assert(
    fc.property(fc.array(expert, { minLength: 1, maxLength: 10 }), starts, (experts, starts) => {
      const dealt = deal(experts, starts);
      const want = bestOfAll(experts, starts);
      assert.ok(Math.abs(dealt.seconds - want) <= 1e-9 * want, `${dealt.seconds} instead of ${want}`);
      const own = secondsOfSplit(experts, starts, (i) => dealt.device.includes(i));
      assert.ok(Math.abs(own - want) <= 1e-9 * want, "the split takes as long as it says");
      assert.deepEqual(
        [...dealt.device, ...dealt.processor].sort((a, b) => a - b),
        [...experts.keys()],
      );
    }),
    { numRuns: 3_000 },
  );
});

test("twelve experts that nearly divide evenly are searched to the end", () => {
  const experts = Array.from({ length: 12 }, (_, i) => ({ device: 100 + 7 ** i / 1e9 + i * 0.37, processor: 101 + i * 0.29 }));
  const none = { device: 0, processor: 0 };
  assert.ok(Math.abs(deal(experts, none).seconds - bestOfAll(experts, none)) < 1e-9);
});

test("many experts are dealt within a percent of what their order by advantage gives at best", () => {
  const none = { device: 0, processor: 0 };
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0.5, max: 8, noNaN: true }), { minLength: 64, maxLength: 128 }), (rows) => {
      const experts = rows
        .map((each, i) => ({ device: 1 + each / 8, processor: each * (1 + (i % 3) / 10) }))
        .sort((a, b) => b.processor / b.device - a.processor / a.device);
      const prefixes = [0, ...experts.keys()].map((length) => secondsOfSplit(experts, none, (i) => i < length));
      assert.ok(0.99 * deal(experts, none, 0.01).seconds <= Math.min(...prefixes));
    }),
    { numRuns: 100 },
  );
  assert.deepEqual(deal([], none).processor, []);
});

/** Microseconds: a device that reads an expert in 10 and computes rows fast, a processor with a tenth of its memory bandwidth. */
const tables: Engines<EngineTimes> = {
  device: { start: 30e-6, seconds: Array.from({ length: 10 }, (_, i) => (10 + 0.02 * 2 ** i) * 1e-6) },
  processor: { start: 5e-6, seconds: Array.from({ length: 10 }, (_, i) => (40 + 8 * 2 ** i) * 1e-6) },
};

test("by planted tables two engines win most where many experts have few rows and some many, and never lose", () => {
  const gains: Record<string, number> = {};
  const layers = {
    "one token": Array.from({ length: 8 }, () => 1),
    "decode and a prompt": Array.from({ length: 64 }, (_, i) => (i < 8 ? 128 : 1)),
    "a prompt alone": Array.from({ length: 64 }, () => 64),
  };
  for (const [name, rows] of Object.entries(layers)) {
    const starts = { device: tables.device.start, processor: tables.processor.start };
    const experts = rows.map((each) => ({ device: secondsOf(tables.device, each), processor: secondsOf(tables.processor, each) }));
    const dealt = deal(experts, starts);
    gains[name] = Math.min(dealt.alone.device, dealt.alone.processor) / dealt.seconds;
    assert.ok((gains[name] ?? 0) >= 1, name);
    if (name === "decode and a prompt")
      assert.ok(
        dealt.processor.every((at) => rows[at] === 1),
        "few rows go to the processor",
      );
  }
  assert.ok((gains["decode and a prompt"] ?? 0) > (gains["a prompt alone"] ?? 0), JSON.stringify(gains));
  assert.ok((gains["one token"] ?? 0) > 1.1, JSON.stringify(gains));
});

test("where the device has half of the experts, two engines take at most what the processor takes for the other half", () => {
  const rows = Array.from({ length: 64 }, (_, i) => 1 + ((i * 7) % 13));
  const experts = rows.map((each, i) => ({
    device: i % 2 === 0 ? secondsOf(tables.device, each) : Number.POSITIVE_INFINITY,
    processor: secondsOf(tables.processor, each),
  }));
  const dealt = deal(experts, { device: tables.device.start, processor: tables.processor.start });
  assert.deepEqual(
    dealt.device,
    [...rows.keys()].filter((i) => i % 2 === 0),
  );
  assert.ok(dealt.alone.processor / dealt.seconds > 1.8, `${dealt.alone.processor / dealt.seconds}`);
});
