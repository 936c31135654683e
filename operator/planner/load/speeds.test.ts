import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { LoadWindow } from "../../../crds/telemetry.ts";
import { computeWork } from "../../../test/kit/ranks/compute-report.ts";
import { type Random, seeded } from "../random.ts";
import { type SpeedRank, Speeds } from "./speeds.ts";
import { nonNegative } from "./throughput.ts";

interface Fleet {
  readonly speeds: readonly number[];
  /** Rows of each rank over the mean. */
  readonly loads: readonly number[];
  /** The noise as a part of a window's time. */
  readonly noise: number;
  readonly random: Random;
  readonly machine?: string;
  /** Ranks that do not tell. */
  readonly silent?: readonly number[];
}

const rankOf = (rank: number, prior = 1): SpeedRank => ({ bootId: `b${rank}`, hardware: `h${rank}`, device: "gpu", prior });

/** The report of a rank on a window: many small batches in decode, few large ones in prefill. */
function report(fleet: Fleet, rank: number, phase: "prefill" | "decode"): LoadWindow {
  const { random, noise, machine, silent, speeds, loads } = fleet;
  const rows = (phase === "decode" ? 4 : 100) * (loads[rank] ?? 1) * (0.8 + 0.4 * random.next());
  const off = 1 + noise * (2 * random.next() - 1);
  const compute = computeWork(
    { batches: phase === "decode" ? 200 : 10, rows, experts: 8, speed: (speeds[rank] ?? 1) / 10, off },
    random.next,
  );
  return {
    ...{ v: 1, deploymentUID: "u", rank, bootId: `b${rank}`, seq: 0, windowStart: 0, windowEnd: 1, phase, layers: 1, experts: 1 },
    ...{ routed: Uint32Array.of(0), served: Uint32Array.of(compute.rows) },
    ...(silent?.includes(rank) ? {} : { compute: machine ? { ...compute, machine } : compute }),
  };
}

/** The speeds in force after each of so many windows. */
function run(fleet: Fleet, windows: number, priors: readonly number[] = []): number[][] {
  const speeds = new Speeds();
  const ranks = fleet.speeds.map((_, rank) => rankOf(rank, priors[rank] ?? 1));
  return Array.from({ length: windows }, () => {
    for (const [rank] of ranks.entries()) for (const phase of ["prefill", "decode"] as const) speeds.take(report(fleet, rank, phase));
    speeds.close(ranks);
    return ranks.map((rank) => speeds.of(rank));
  });
}

const fleets = fc
  .record({ ranks: fc.integer({ min: 2, max: 9 }), seed: fc.nat(), noise: fc.double({ min: 0, max: 0.1, noNaN: true }) })
  .map(({ ranks, seed, noise }) => {
    const random = seeded(seed);
    return { random, noise, ranks, loads: Array.from({ length: ranks }, () => 0.2 + 3 * random.next()) };
  });

test("equal ranks stay equal, whatever their loads and the size of their batches", () => {
  fc.assert(
    fc.property(fleets, ({ random, noise, ranks, loads }) => {
      const fleet = { speeds: new Array<number>(ranks).fill(1), loads, noise, random };
      for (const speeds of run(fleet, 30)) for (const speed of speeds) assert.equal(speed, 1);
    }),
    { numRuns: 200, seed: 7 },
  );
});

test("unequal ranks are found out to 15% of the median one's speed, whatever their loads, and then hardly change", () => {
  fc.assert(
    fc.property(fleets, ({ random, noise, ranks, loads }) => {
      const truth = Array.from({ length: ranks }, (_, rank) => (rank * 2 > ranks ? 0.4 + 0.3 * random.next() : 1));
      const found = run({ speeds: truth, loads, noise, random }, 120);
      const middle = [...truth].sort((a, b) => a - b);
      const median = ranks % 2 === 1 ? middle[ranks >> 1]! : Math.sqrt(middle[ranks / 2]! * middle[ranks / 2 - 1]!);
      for (const [rank, speed] of found.at(-1)!.entries()) {
        const off = speed / (truth[rank]! / median);
        assert.ok(off > 1 / 1.15 && off < 1.15, `rank ${rank}: ${speed}, in truth ${truth[rank]! / median} of the median`);
      }
      for (let rank = 0; rank < ranks; rank++) {
        const changes = found.filter((speeds, t) => t > 40 && speeds[rank] !== found[t - 1]![rank]).length;
        assert.ok(changes <= 1, `rank ${rank} changed ${changes} times after it was known`);
      }
    }),
    { numRuns: 200, seed: 8 },
  );
});

const steady = { loads: [1, 1, 1, 1], noise: 0.05, random: seeded(5) };

test("a rank that is throttled is noticed within a few windows, and again when it is not any more", () => {
  const speeds = new Speeds();
  const ranks = [0, 1, 2, 3].map((rank) => rankOf(rank));
  const window = (truth: number): number => {
    const fleet = { ...steady, speeds: [1, truth, 1, 1] };
    for (const { hardware } of ranks)
      for (const phase of ["prefill", "decode"] as const) speeds.take(report(fleet, Number(hardware[1]), phase));
    speeds.close(ranks);
    return speeds.of(rankOf(1));
  };
  for (let t = 0; t < 20; t++) assert.equal(window(1), 1);
  const slow = Array.from({ length: 30 }, () => window(0.5));
  assert.ok(slow.findIndex((speed) => speed < 0.9) < 8, `${slow}`);
  assert.ok(Math.abs(slow.at(-1)! - 0.5) < 0.12, `${slow.at(-1)}`);
  const again = Array.from({ length: 60 }, () => window(1));
  assert.ok(again.at(-1)! > 0.9, `${again.at(-1)}`);
});

test("the device's speed at the start counts until there is work, and for ranks that tell nothing of theirs", () => {
  const speeds = new Speeds();
  assert.equal(speeds.of(rankOf(0, 2.5)), 2.5);
  const found = run({ ...steady, speeds: [1, 1, 1, 0.5], silent: [2] }, 40, [1, 1, 0.6, 0.5]).at(-1)!;
  assert.deepEqual(found.slice(0, 2), [1, 1]);
  assert.equal(found[2], 0.6, "what is missing is not zero");
  assert.ok(Math.abs(found[3]! - 0.5) < 0.06, `${found[3]}`);
});

test("work of which a part is missing is not counted, and spoils nothing", () => {
  const speeds = new Speeds();
  const ranks = [0, 1, 2].map((rank) => rankOf(rank));
  const fleet = { ...steady, speeds: [1, 1, 1] };
  for (let t = 0; t < 20; t++) {
    for (let rank = 0; rank < 3; rank++) {
      const window = report(fleet, rank, "decode");
      const { compute } = window;
      speeds.take(rank === 1 && compute ? { ...window, compute: { ...compute, times: [0, 0, 0] } } : window);
      speeds.take({ ...window, compute: { runs: 0, calls: 0, rows: 0, micros: 9e9, squares: [0, 0, 0, 0, 0, 0], times: [0, 0, 0] } });
    }
    speeds.close(ranks);
  }
  assert.deepEqual(
    ranks.map((rank) => speeds.of(rank)),
    [1, 1, 1],
  );
});

test("a rank alone is as fast as the median", () => {
  assert.deepEqual(run({ loads: [1], noise: 0.1, random: seeded(1), speeds: [0.3] }, 20).at(-1), [1]);
});

test("ranks that share the cores of a machine are as fast as each other, however the cores were shared", () => {
  const fleet = { ...steady, speeds: [1.3, 0.8, 1, 0.9], machine: "m" };
  for (const speeds of run(fleet, 40)) assert.deepEqual(speeds, [1, 1, 1, 1]);
});

test("what a former leader found holds until work says otherwise, and no figure leaves its bounds", () => {
  const speeds = new Speeds();
  speeds.seed("h1", 0.5);
  assert.ok(Math.abs(speeds.of(rankOf(1)) - 0.5) < 1e-9);
  const fleet = { ...steady, speeds: [1, 0.5, 1, 1] };
  const ranks = [0, 1, 2, 3].map((rank) => rankOf(rank));
  for (let t = 0; t < 40; t++) {
    for (let rank = 0; rank < 4; rank++) for (const phase of ["prefill", "decode"] as const) speeds.take(report(fleet, rank, phase));
    speeds.close(ranks);
    assert.ok(Math.abs(speeds.of(rankOf(1)) - 0.5) < 0.06, `window ${t}: ${speeds.of(rankOf(1))}`);
  }
  speeds.close([rankOf(0)]);
  assert.equal(speeds.of(rankOf(1)), 1, "a rank that is gone is forgotten");
  const extreme = run({ ...steady, speeds: [1, 0.01, 1, 100] }, 200).at(-1)!;
  assert.deepEqual([Math.round(1 / extreme[1]!), Math.round(extreme[3]!)], [16, 16]);
});

test("what was measured while experts moved counts nothing", () => {
  const speeds = new Speeds();
  const ranks = [0, 1, 2, 3].map((rank) => rankOf(rank));
  for (let t = 0; t < 40; t++) {
    for (let rank = 0; rank < 4; rank++) speeds.take(report({ ...steady, speeds: [1, 0.2, 1, 1] }, rank, "decode"));
    speeds.drop();
    speeds.close(ranks);
  }
  assert.equal(speeds.of(rankOf(1)), 1);
});

test("costs that are fitted are never negative, and explain what they can", () => {
  const draw = fc.tuple(fc.nat(100), fc.nat(100), fc.nat(100));
  fc.assert(
    fc.property(fc.array(draw, { minLength: 1, maxLength: 8 }), draw, (works, [a, b, c]) => {
      const times = works.map(([x, y, z]) => a * x + b * y + c * z);
      const squares = Array.from({ length: 9 }, (_, at) => works.reduce((sum, work) => sum + work[Math.floor(at / 3)]! * work[at % 3]!, 0));
      const sides = [0, 1, 2].map((i) => works.reduce((sum, work, n) => sum + work[i]! * times[n]!, 0));
      const found = nonNegative(squares, sides);
      assert.ok(
        found.every((cost) => cost >= 0 && Number.isFinite(cost)),
        `${found}`,
      );
      for (const [n, [x, y, z]] of works.entries()) {
        const fitted = found[0]! * x + found[1]! * y + found[2]! * z;
        assert.ok(Math.abs(fitted - times[n]!) <= 1e-3 * Math.max(1, ...times), `${fitted} for ${times[n]}`);
      }
    }),
    { numRuns: 500, seed: 9 },
  );
});
