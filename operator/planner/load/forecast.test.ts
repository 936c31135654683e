import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stationaryTrace } from "../../../test/bench/planner-kit.ts";
import { type Trace, windowOf } from "../offline/traces.ts";
import { generateTrace, type PresetName, presets } from "../offline/traces-generate.ts";
import { seeded } from "../random.ts";
import { Forecaster } from "./forecast.ts";
import { assumedWindows, expectedWindows, type Restlessness, windowsMax, windowsMin } from "./lifetime.ts";

/** Weights of the newest window that single averages are tried with. */
const arms = [0.05, 0.1, 0.2, 0.35, 0.6, 1];
/** The most that online selection may miss, over what the average misses that proves best over the whole trace. */
const regretMax = 1.07;
const layers = 8;

function sharesOf(counts: ArrayLike<number>, experts: number): Float64Array {
  const shares = Float64Array.from(counts);
  for (let l = 0; l < layers; l++) {
    const layer = shares.subarray(l * experts, (l + 1) * experts);
    const all = layer.reduce((a, b) => a + b, 0);
    for (let e = 0; e < experts; e++) layer[e] = (layer[e] as number) / all;
  }
  return shares;
}

/** Mean over layers. */
function variation(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] as number)), 0) / 2 / layers;
}

/** One-step errors over a trace: of the forecaster, and of each average alone. */
function errorsOn(trace: Trace): { chosen: number; single: number[] } {
  const forecaster = new Forecaster(layers, trace.experts);
  const means = arms.map(() => new Float64Array(layers * trace.experts));
  const single = arms.map(() => 0);
  let chosen = 0;
  let forecast: Float64Array | undefined;
  for (let t = 0; t < trace.windows; t++) {
    const shares = sharesOf(windowOf(trace, t), trace.experts);
    if (forecast) chosen += variation(sharesOf(forecast, trace.experts), shares);
    for (const [a, mean] of means.entries()) {
      if (t > 0) single[a] = (single[a] as number) + variation(mean, shares);
      const gain = Math.max(arms[a] as number, 1 / (t + 1));
      for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + gain * ((shares[i] as number) - (mean[i] as number));
    }
    forecast = forecaster.observe(windowOf(trace, t)).load;
  }
  return { chosen, single };
}

function assertSmallRegret(trace: Trace): void {
  const { chosen, single } = errorsOn(trace);
  const best = Math.min(...single);
  assert.ok(chosen <= regretMax * best, `${(chosen / best).toFixed(3)} times the error of the best average, ${arms[single.indexOf(best)]}`);
}

for (const name of Object.keys(presets) as PresetName[]) {
  test(`${name}: the selected forecast misses at most 7% more than the average that is best in hindsight`, () => {
    for (const seed of [1, 2, 3]) assertSmallRegret(generateTrace(name, { ...presets[name], layers }, seed));
  });
}

test("so it does where nothing but chance moves, however little is counted", () => {
  const { experts, counts } = generateTrace("t", { ...presets.qwen3_48x128, layers, windows: 1 }, 5);
  for (const selections of [1_000, 20_000, 500_000])
    assertSmallRegret(stationaryTrace({ layers, experts, load: counts }, 60, selections, 6));
});

test("the error that is told is that of recent windows: sampling noise alone, then the miss after a drift sets in", () => {
  const experts = 16;
  const still = stationaryTrace({ layers, experts, load: new Float64Array(layers * experts).fill(1) }, 40, 100_000, 7);
  const forecaster = new Forecaster(layers, experts);
  let last = forecaster.observe(windowOf(still, 0));
  assert.equal(last.error, 0, "nothing was forecast yet");
  for (let t = 1; t < still.windows; t++) last = forecaster.observe(windowOf(still, t));
  assert.ok(last.error > 0.5 * last.noiseFloor && last.error < 1.2 * last.noiseFloor, `${last.error} beside ${last.noiseFloor}`);
  for (let t = 0; t < 12; t++) {
    const moved = windowOf(still, t).map((count, i) => Math.round(count * (1 + 0.1 * Math.sin(i + t / 2))));
    last = forecaster.observe(moved);
  }
  assert.ok(last.error > 2 * last.noiseFloor, `${last.error} beside ${last.noiseFloor}`);
});

test("the second window decides whether averages have the advantage: not over a load that has plainly moved, and over chance they do", () => {
  const experts = 16;
  const load = new Float64Array(layers * experts).fill(1);
  const still = stationaryTrace({ layers, experts, load }, 2, 100_000, 8);
  const armAfter = (swing: number): number => {
    const forecaster = new Forecaster(layers, experts);
    forecaster.observe(windowOf(still, 0));
    return forecaster.observe(windowOf(still, 1).map((count, i) => Math.round(count * (1 + swing * Math.sin(i))))).arm;
  };
  assert.ok(armAfter(0) < 1);
  // About twice what sampling explains, as when tokens of one request are alike.
  assert.ok(armAfter(0.035) < 1);
  assert.equal(armAfter(0.1), 1);
});

test("a change that falls into the middle of a window is noticed when the next one is full of it, and once only", () => {
  const experts = 16;
  const still = stationaryTrace({ layers, experts, load: new Float64Array(layers * experts).fill(1) }, 16, 20_000, 9);
  const moved = (t: number, part: number): number[] =>
    Array.from(windowOf(still, t), (count, i) => Math.round(count * (1 + part * (i % 2 === 0 ? 0.3 : -0.3))));
  const forecaster = new Forecaster(layers, experts);
  const alarms: number[] = [];
  // Half of the change in window 8, all of it from 9 on: no two windows in a row differ by enough.
  for (let t = 0; t < still.windows; t++) if (forecaster.observe(moved(t, t < 8 ? 0 : t === 8 ? 0.5 : 1)).alarm) alarms.push(t);
  assert.deepEqual(alarms, [9]);
});

test("a window of little traffic beside full ones is no change of load, first of all or in a lull", () => {
  const experts = 128;
  const selections = {
    "a thin first window": [300, 10_000, 10_000],
    "two thin windows, then full ones": [250, 400, 5_000, 5_000],
    "a lull": [20_000, 20_000, 20_000, 300, 20_000, 20_000],
  };
  for (const [what, windows] of Object.entries(selections)) {
    for (let seed = 1; seed <= 5; seed++) {
      const random = seeded(seed);
      const popularity = Float64Array.from({ length: experts }, () => Math.exp(random.normal()));
      const all = popularity.reduce((a, b) => a + b, 0);
      const forecaster = new Forecaster(layers, experts);
      for (const [i, total] of windows.entries()) {
        const counts = Float64Array.from({ length: layers * experts }, (_, cell) => {
          const mean = (total * (popularity[cell % experts] as number)) / all;
          return Math.max(0, Math.round(mean + Math.sqrt(mean) * random.normal()));
        });
        assert.equal(forecaster.observe(counts).alarm, false, `${what}, seed ${seed}, window ${i}`);
      }
    }
  }
});

const calm: Restlessness = { watched: 0, changes: 0, unrest: 0, lasting: 1 };

test("a forecast is expected to hold as long as load has held before, or until it has drifted away", () => {
  assert.equal(expectedWindows(calm), assumedWindows);
  assert.equal(expectedWindows({ ...calm, watched: 40 }), 60);
  assert.equal(expectedWindows({ ...calm, watched: 40, changes: 3 }), 15);
  // 5% of the load moves on in each window: half of 20 windows.
  assert.equal(expectedWindows({ ...calm, unrest: 0.05 }), 10);
  assert.equal(expectedWindows({ ...calm, unrest: 0.05, lasting: 0.1 }), assumedWindows, "it only swings about its mean");
});

const restlessness = fc.record({
  watched: fc.double({ min: 0, max: 1000, noNaN: true }),
  changes: fc.double({ min: 0, max: 100, noNaN: true }),
  unrest: fc.double({ min: 0, max: 1, noNaN: true }),
  lasting: fc.double({ min: 0, max: 1, noNaN: true }),
});

test("more unrest or more changes never make it longer, more quiet windows never shorter, and it keeps to its bounds", () => {
  fc.assert(
    fc.property(restlessness, fc.double({ min: 0, max: 1, noNaN: true }), (r, more) => {
      const windows = expectedWindows(r);
      assert.ok(windows >= windowsMin && windows <= windowsMax);
      assert.ok(expectedWindows({ ...r, unrest: r.unrest + more }) <= windows);
      assert.ok(expectedWindows({ ...r, lasting: r.lasting + more }) <= windows);
      assert.ok(expectedWindows({ ...r, changes: r.changes + more }) <= windows);
      assert.ok(expectedWindows({ ...r, watched: r.watched + 10 * more }) >= windows);
    }),
    { numRuns: 2000, seed: 1 },
  );
});

/** Lifetime after 40 windows of one layer; `hotIn(t)`: which half of the experts is hot in window t. */
function lifetimeOf(hotIn: (t: number) => number): number {
  const random = seeded(2);
  const forecaster = new Forecaster(1, 32);
  let lifetime = 0;
  for (let t = 0; t < 40; t++) {
    const counts = Float64Array.from({ length: 32 }, (_, e) => 1000 + 4000 * Number(e % 2 === hotIn(t)) + 40 * random.next());
    ({ lifetime } = forecaster.observe(counts));
  }
  return lifetime;
}

test("a load that holds still is counted on for longer than one that turns over now and then, and that for longer than one that always does", () => {
  const still = lifetimeOf(() => 0);
  const sometimes = lifetimeOf((t) => Math.floor(t / 10) % 2);
  const always = lifetimeOf((t) => Math.floor(t / 3) % 2);
  assert.ok(still > 40, `${still}`);
  assert.ok(sometimes < 20 && sometimes >= windowsMin, `${sometimes}`);
  assert.ok(always < sometimes, `${always} against ${sometimes}`);
});
