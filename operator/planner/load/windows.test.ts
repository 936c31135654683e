import assert from "node:assert/strict";
import { test } from "node:test";
import type { LoadWindow } from "../../../crds/telemetry.ts";
import type { RankSpec } from "../policy.ts";
import { seeded } from "../random.ts";
import { Forecaster } from "./forecast.ts";
import { timingOf } from "./timing.ts";
import { LoadWindows, ServedRows } from "./windows.ts";

const ranks = [
  { rank: 0, bootId: "a", clockAheadMs: 0, speed: 1 },
  { rank: 1, bootId: "b", clockAheadMs: 0, speed: 1 },
];
/** One message a second, by its number. */
const message = (change: Partial<LoadWindow>): LoadWindow => ({
  v: 1,
  deploymentUID: "u",
  rank: 0,
  bootId: "a",
  seq: 0,
  windowStart: 1000 * (change.seq ?? 0),
  windowEnd: 1000 * (change.seq ?? 0) + 1000,
  phase: "decode",
  layers: 1,
  experts: 2,
  routed: Uint32Array.of(3, 1),
  served: Uint32Array.of(4, 0),
  ...change,
});
const rates = { node: 40, zone: 20, rack: 15, remote: 10, store: 5 };
const specs = (nodes: string[], zones: string[] = []): RankSpec[] =>
  nodes.map((node, rank) => ({ rank, speed: 1, budgetBytes: 1, zone: zones[rank] ?? "z", node, state: "active" }));
const opened = (): LoadWindows => new LoadWindows({ layers: 1, experts: 2, deploymentUid: "u", now: 1000 });

const refused: Record<string, [Partial<LoadWindow>, string]> = {
  "a message of another deployment": [{ deploymentUID: "x" }, "unknown_deployment"],
  "a message of a rank that is no member": [{ rank: 7 }, "unknown_deployment"],
  "a message of another shape": [{ experts: 3, routed: new Uint32Array(3), served: new Uint32Array(3) }, "unknown_deployment"],
  "a message of a process that is gone": [{ bootId: "old" }, "stale_boot"],
  "a message of a window that was closed two seconds before": [{ windowStart: -2_000, windowEnd: -1_001 }, "late"],
};
for (const [name, [change, wantReason]] of Object.entries(refused)) {
  test(`${name} is refused as ${wantReason}`, () => {
    assert.deepEqual(opened().accept(message(change), ranks, 2000), { ok: false, reason: wantReason });
  });
}

test("a message is late by its sender's clock as it was compared with ours, not by two wall clocks", () => {
  const hour = 3_600_000;
  const [ahead] = [{ rank: 0, bootId: "a", clockAheadMs: hour, speed: 1 }];
  const behind = { ...ahead, clockAheadMs: -hour };
  const of = (rank: typeof ahead, end: number) => opened().accept(message({ windowStart: end - 500, windowEnd: end }), [rank], 2000);
  assert.deepEqual(of(behind, 1_900 - hour), { ok: true }, "two wall clocks would call it an hour late");
  assert.deepEqual(of(ahead, 1_900 + hour), { ok: true });
  assert.deepEqual(of(ahead, 1_900), { ok: false, reason: "late" }, "by its own clock it ended an hour before");
  assert.deepEqual(of(ahead, 5_000 + hour), { ok: false, reason: "bad_window" }, "it ends in the future");
  assert.deepEqual(of({ ...ahead, clockAheadMs: undefined } as never, 1_900), { ok: false, reason: "clock_unknown" });
});

test("a rank whose turn to send comes after the window was closed counts in the next one", () => {
  const load = opened();
  const late = { seq: 1, windowStart: 5_000, windowEnd: 9_900 };
  assert.equal(load.close(ranks.slice(0, 1), 10_000).selections, 0);
  assert.deepEqual(load.accept(message(late), ranks, 11_100), { ok: true });
  assert.deepEqual(load.accept(message(late), ranks, 11_200), { ok: false, reason: "duplicate" });
  const closed = load.close(ranks.slice(0, 1), 20_000);
  assert.deepEqual([closed.selections, closed.missing], [4, []]);
});

test("loads are counted by rank, once every rank tells of them", () => {
  const load = opened();
  const misses = { loads: 1, bytes: 10, micros: 5 };
  const tell = (rank: number, seq: number, more: object) => {
    assert.deepEqual(load.accept(message({ rank, bootId: rank === 0 ? "a" : "b", seq, ...more }), ranks, 1000 * seq + 1000), { ok: true });
  };
  tell(0, 1, { misses });
  tell(1, 1, {});
  assert.equal(load.close(ranks, 2_000).misses, undefined, "rank 1 is of an older release");
  tell(0, 2, { misses });
  tell(1, 2, { misses });
  tell(0, 3, { misses });
  assert.deepEqual(
    [...(load.close(ranks, 4_000).misses ?? [])],
    [
      [0, { loads: 2, bytes: 20, micros: 10 }],
      [1, misses],
    ],
  );
});

test("a window that closes amid the turns of ranks takes nobody's extra sample for load", () => {
  const load = new LoadWindows({ layers: 1, experts: 2, deploymentUid: "u", now: 0 });
  for (const { rank, bootId } of ranks)
    for (const seq of rank === 0 ? [1, 2, 3, 4] : [1, 2, 3])
      assert.deepEqual(load.accept(message({ rank, bootId, seq }), ranks, 6_000), { ok: true });
  const [served] = load.close(ranks, 6_000).served;
  assert.deepEqual([...(served ?? [])], [14, 14]);
  load.accept(message({ seq: 7 }), ranks, 9_000);
  load.accept(message({ rank: 1, bootId: "b", seq: 7, windowStart: 7_990 }), ranks, 9_000);
  assert.equal(load.close(ranks, 9_000).served[0]?.[1], 8, "ten milliseconds are no measure");
});

test("a message that began before a change of plan is a sign of life and counts nothing", () => {
  const load = opened();
  load.reset(6_000);
  assert.deepEqual(load.accept(message({ seq: 1, windowStart: 4_000, windowEnd: 7_000 }), ranks, 7_100), { ok: true });
  assert.equal(load.openSelections(), 0);
  assert.equal(load.ageMs(ranks.slice(0, 1), 7_200), 100);
  load.accept(message({ seq: 2, windowStart: 7_000, windowEnd: 9_000 }), ranks, 9_100);
  const closed = load.close(ranks.slice(0, 1), 10_000);
  assert.equal(closed.selections, 4);
  assert.deepEqual(closed.missing, []);
  load.accept(message({ seq: 3, windowStart: 9_000, windowEnd: 11_000 }), ranks, 11_100);
  assert.equal(load.openSelections(), 4, "a window that ends by time alone goes on where the last one ended");
});

test("a load that holds still is no unrest, however few are counted; one that moves is", () => {
  const random = seeded(3);
  const draw = (selections: number, hot: number): Uint32Array => {
    const counts = new Uint32Array(64);
    for (let n = 0; n < selections; n++) {
      const e = random.next() < 0.2 ? hot : random.below(64);
      counts[e] = (counts[e] as number) + 1;
    }
    return counts;
  };
  const unrest = (selections: number, hot: (window: number) => number): number => {
    const forecaster = new Forecaster(1, 64);
    let last = 0;
    for (let window = 0; window < 20; window++) last = forecaster.observe(draw(selections, hot(window))).unrest;
    return last;
  };
  for (const selections of [500, 20_000]) {
    const still = unrest(selections, () => 7);
    assert.ok(still < 0.015, `${selections}: ${still}`);
  }
  const moving = unrest(20_000, (window) => window % 7);
  assert.ok(moving > 0.05, `${moving}`);
});

test("a message delivered twice counts once", () => {
  const b = opened();
  assert.ok(b.accept(message({}), ranks, 2000).ok);
  assert.deepEqual(b.accept(message({}), ranks, 2000), { ok: false, reason: "duplicate" });
  assert.deepEqual([...b.close(ranks, 6000).routed], [3, 1]);
});

test("a silent rank is missing, and an idle one is not", () => {
  const b = opened();
  b.accept(message({ routed: Uint32Array.of(0, 0), served: Uint32Array.of(0, 0) }), ranks, 2000);
  assert.deepEqual(b.close(ranks, 6000).missing, [1]);
  assert.equal(b.ageMs(ranks, 6000), Number.POSITIVE_INFINITY);
  assert.equal(b.reporting(ranks, 6000, 30_000), 1);
});

test("a rank that restarts is a new one: its old messages say nothing of it", () => {
  const b = opened();
  b.accept(message({ seq: 1 }), ranks, 2000);
  const reborn = [{ rank: 0, bootId: "a2", clockAheadMs: 0, speed: 1 }];
  assert.equal(b.ageMs(reborn, 3000), Number.POSITIVE_INFINITY);
  assert.ok(b.accept(message({ bootId: "a2", seq: 0 }), reborn, 3000).ok);
});

test("where the time of steps went is the mean of ranks, phases added, and known only if all of them say", () => {
  const b = opened();
  const seconds = (dense: number, experts: number) => ({ seconds: { dense, experts } });
  b.accept(message({ seq: 1, phase: "prefill", ...seconds(1, 2) }), ranks, 2000);
  b.accept(message({ seq: 2, ...seconds(2, 1) }), ranks, 2000);
  b.accept(message({ rank: 1, bootId: "b", seq: 1, ...seconds(5, 1) }), ranks, 2000);
  const closed = b.close(ranks, 3000);
  assert.deepEqual(closed.seconds, { dense: 4, experts: 2 });
  const options = { layers: 2, ranks: specs(["a", "a"]), rates, windowMs: 1000, windows: 7 };
  // A window of twice the length, two layers.
  assert.deepEqual(timingOf(closed, options), { denseSeconds: 1, expertSeconds: 0.5, bytesPerSecond: 40, windows: 7 });
  b.accept(message({ seq: 3, ...seconds(1, 1) }), ranks, 4000);
  b.accept(message({ rank: 1, bootId: "b", seq: 2 }), ranks, 4000);
  const partly = b.close(ranks, 5000);
  assert.equal(partly.seconds, undefined);
  assert.equal(timingOf(partly, options), undefined);
});

test("transfers are timed by the slowest path between ranks", () => {
  const window = { ...opened().close([], 3000), seconds: { dense: 1, experts: 1 } };
  const rate = (nodes: string[], zones?: string[]) =>
    timingOf(window, { layers: 1, ranks: specs(nodes, zones), rates, windowMs: 1, windows: 1 })?.bytesPerSecond;
  assert.equal(rate(["a", "a"]), 40);
  assert.equal(rate(["a", "a", "b"]), 20);
  assert.equal(rate(["a", "b", "c"], ["x", "x", "y"]), 10);
});

test("measured imbalance adds windows up until they say more than chance", () => {
  const rows = new ServedRows();
  const window = (a: number, b: number) => ({
    start: 0,
    end: 1,
    routed: new Float64Array(2),
    routedByPhase: { prefill: new Float64Array(2), decode: new Float64Array(2) },
    served: [Float64Array.of(a, b)],
    ranks,
    missing: [],
    selections: a + b,
    perLayer: Float64Array.of(a + b),
  });
  rows.add(window(30, 10), 1000);
  assert.equal(rows.measure(100), undefined);
  rows.add(window(30, 50), 1000);
  assert.deepEqual(rows.measure(100), {
    worst: 1,
    mean: 1,
    worstLayer: 0,
    layers: 1,
    ranks: [
      { rank: 0, load: 1 },
      { rank: 1, load: 1 },
    ],
  });
  rows.add(window(3000, 1000), 1000);
  assert.equal(rows.measure(100)?.worst, 1.5, "what is enough by itself puts the older windows out");
  assert.deepEqual(
    rows.measure(100)?.ranks.map(({ load }) => load),
    [1.5, 0.5],
  );
});

function draw(p: readonly number[], n: number, random: ReturnType<typeof seeded>): number[] {
  const counts = p.map(() => 0);
  for (let i = 0; i < n; i++) {
    let u = random.next();
    let e = 0;
    for (; e < p.length - 1; e++) {
      u -= p[e] ?? 0;
      if (u <= 0) break;
    }
    counts[e] = (counts[e] ?? 0) + 1;
  }
  return counts;
}

test("noise raises no alarm, a change of topic does at once, and the forecast follows it", () => {
  const random = seeded(3);
  const forecaster = new Forecaster(1, 8);
  const p = [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05];
  for (let t = 0; t < 60; t++) assert.equal(forecaster.observe(draw(p, 3000, random)).alarm, false, `window ${t}`);
  const changed = forecaster.observe(draw(p.toReversed(), 3000, random));
  assert.ok(changed.alarm);
  assert.ok((changed.load[7] ?? 0) > 700, "what was before does not count any more");
});

test("under steady load a slow average wins, under a drift a fast one", () => {
  const random = seeded(4);
  const steady = new Forecaster(1, 8);
  const drifting = new Forecaster(1, 8);
  let last = { steady: 0, drifting: 0 };
  for (let t = 0; t < 40; t++) {
    const even = new Array<number>(8).fill(1 / 8);
    const moving = Array.from({ length: 8 }, (_, e) => 1 + 0.9 * Math.sin(e + t / 8));
    const sum = moving.reduce((a, b) => a + b, 0);
    last = {
      steady: steady.observe(draw(even, 1000, random)).arm,
      drifting: drifting.observe(
        draw(
          moving.map((x) => x / sum),
          200_000,
          random,
        ),
      ).arm,
    };
  }
  assert.ok(last.steady < last.drifting, JSON.stringify(last));
});

test("a layer without load keeps its forecast, as large as it last was", () => {
  const forecaster = new Forecaster(2, 2);
  forecaster.observe([10, 30, 5, 5]);
  const { load } = forecaster.observe([10, 30, 0, 0]);
  assert.deepEqual([...load], [10, 30, 5, 5]);
  assert.ok((forecaster.observe([10, 30, 8, 8]).load[2] ?? 0) === 8);
});
