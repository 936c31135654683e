import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { decisionNumbersMax, type ExpertPlacementStatus, expertPlacementStatusSchema } from "../../../crds/expert-placement.ts";
import { type Log, silentLog } from "../../../runtime/observe/log.ts";
import { VirtualClock } from "../../../test/sim/clock.ts";
import type { LoadSnapshot, RankView } from "../observed.ts";
import type { PlacementStore } from "../ports.ts";
import { HoldReasons } from "./decision-events.ts";
import { placementStatus, Reporter, sayTheSame } from "./placement-status.ts";

const ref = { namespace: "ns", name: "moe" };
const status = (layersCommitted: number, phase: ExpertPlacementStatus["phase"] = "Committed"): ExpertPlacementStatus => ({
  ...{ phase, committedEpoch: 3, layersCommitted },
});

/** A writer whose store fails with `error` while it is set; `run` offers a status every 100 ms. */
function writing(error: AppError | undefined) {
  const clock = new VirtualClock(0);
  const seen = { error, uid: "placement", times: [] as number[], warned: 0, gone: 0 };
  const log: Log = { ...silentLog, warn: () => void seen.warned++ };
  const applyStatus: PlacementStore["applyStatus"] = async (_, object) => {
    seen.times.push(clock.now());
    if (seen.error) throw seen.error;
    return { ...object, metadata: { ...object.metadata, uid: seen.uid } };
  };
  const writer = new Reporter({ store: { applyStatus }, clock, log, onGone: () => void seen.gone++, onChange: () => {} });
  const run = async (ms: number, layersCommitted = 4, phase?: ExpertPlacementStatus["phase"]): Promise<void> => {
    for (let at = 0; at < ms; at += 100) {
      writer.offer(ref, { uid: "placement", status: {} }, status(layersCommitted, phase));
      await clock.run(100);
    }
  };
  return { seen, run };
}

test("a status that cannot be written is said in the log and tried again with growing pauses", async () => {
  const { seen, run } = writing(new AppError("no rights", { code: "Forbidden" }));
  await run(10_000);
  assert.deepEqual(seen.times, [0, 1_000, 3_000, 7_000]);
  assert.equal(seen.warned, 4);
  assert.equal(seen.gone, 0);
  seen.error = undefined;
  await run(10_000);
  assert.deepEqual(seen.times.slice(4), [15_000]);
});

test("an object that is gone is noticed, within a minute even when there is no news", async () => {
  const { seen, run } = writing(undefined);
  await run(1_000);
  assert.deepEqual(seen.times, [0]);
  seen.error = new AppError("not found", { code: "NotFound" });
  await run(60_000);
  assert.deepEqual(seen.times, [0, 60_000]);
  assert.equal(seen.gone, 1);
});

test("a change of phase is written at once, another one within five seconds, and an object of another uid is noticed", async () => {
  const { seen, run } = writing(undefined);
  await run(1_000);
  await run(5_000, 5);
  assert.deepEqual(seen.times, [0, 5_000]);
  await run(1_000, 5, "Preparing");
  assert.deepEqual(seen.times, [0, 5_000, 6_000]);
  seen.uid = "made anew";
  await run(1_000);
  assert.deepEqual([seen.times.length, seen.gone], [4, 1]);
});

const written = (numbers: Readonly<Record<string, number>>, views: readonly RankView[] = [], tiers?: LoadSnapshot["tiers"]) =>
  placementStatus({
    ...{ report: { phase: "Committed" }, running: false, views, speeds: [], recommended: [] },
    load: {
      tiers,
      ...{ measured: undefined, bound: undefined, phases: [], predicted: undefined, judged: undefined },
      decision: { act: false, reason: "Balanced", message: "m", numbers },
      outlook: { arm: 0.35, error: 0.0312, noiseFloor: 0.012, change: 1.5, windows: 7, changed: false },
    },
  });

test("numbers that JSON cannot hold, or that are too many, do not make the object unreadable", () => {
  const many = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`n${n}`, n]));
  const status = written({ ageMs: Number.POSITIVE_INFINITY, gainSeconds: Number.NaN, ...many });
  const read = expertPlacementStatusSchema.parse(JSON.parse(JSON.stringify(status)));
  assert.equal(Object.keys(read.decision?.numbers ?? {}).length, decisionNumbersMax);
  assert.equal(read.decision?.numbers?.ageMs, undefined);
  assert.deepEqual(read.forecast, {
    ...{ newestWeightPercent: 35, errorPermille: 31, noisePermille: 12, changePermille: 1000, changed: false, windows: 7 },
  });
});

test("a decision without numbers has no empty map of them, which an API server would refuse after one with some", () => {
  assert.deepEqual(written({})?.decision, { reason: "Balanced", message: "m" });
});

test("a rank that serves more than it holds has in the status what it serves, and what it loads for a token", () => {
  const view = { rank: 0, state: "active", usable: true, lost: false, pod: { terminating: false } } as unknown as RankView;
  const tiers = {
    forecast: { ranks: new Map([[0, { servedBytes: 2000, bytesPerToken: 12.6 }]]) },
    measured: { bytes: new Map([[0, 20.2]]) },
  } as unknown as LoadSnapshot["tiers"];
  const loads = { servedBytes: 2000, predictedLoadBytes: 13, measuredLoadBytes: 20 };
  assert.deepEqual(written({}, [view], tiers)?.ranks, [{ rank: 0, state: "active", ...loads }]);
  assert.deepEqual(written({}, [view])?.ranks, [{ rank: 0, state: "active" }]);
});

const published = {
  phase: "Committed",
  committedEpoch: 3,
  measured: { imbalancePercent: 110 },
  forecast: { errorPermille: 100 },
  ranks: [{ rank: 0, state: "active", epoch: 3, hostedBytes: 1000, loadPercent: 98 }],
  decision: { reason: "Balanced", message: "1.10 of 1.20", numbers: { imbalancePercent: 110 } },
};
const rank = published.ranks[0];

const same: Readonly<Record<string, object>> = {
  "another window of the same load": { measured: { imbalancePercent: 114 }, ranks: [{ ...rank, loadPercent: 94 }] },
  "other loads for a token": { ranks: [{ ...rank, measuredLoadBytes: 7 }] },
  "other grounds for the same verdict": { decision: { reason: "Balanced", message: "1.14 of 1.20", numbers: { movesPossible: 1 } } },
};
const news: Readonly<Record<string, object>> = {
  "an imbalance that has moved by a step": { measured: { imbalancePercent: 115 } },
  "another verdict": { decision: { ...published.decision, reason: "Imbalanced" } },
  "a rank's epoch": { ranks: [{ ...rank, epoch: 4 }] },
  "a rank's bytes": { ranks: [{ ...rank, hostedBytes: 1001 }] },
  "bytes that a rank serves": { ranks: [{ ...rank, servedBytes: 2000 }] },
  "a rank more": { ranks: [rank, { ...rank, rank: 1 }] },
  "a figure that was not there": { predicted: { imbalancePercent: 100 } },
  "a figure that is there no more": { measured: undefined },
};

for (const [what, change] of Object.entries(same))
  test(`${what} is no news`, () => assert.ok(sayTheSame(published, { ...published, ...change })));
for (const [what, change] of Object.entries(news))
  test(`${what} is news`, () => assert.ok(!sayTheSame(published, { ...published, ...change })));

test("steps add up: what was written is what a figure is held against", () => {
  const at = (imbalancePercent: number) => ({ measured: { imbalancePercent } });
  assert.ok([101, 102, 103, 104].every((percent) => sayTheSame(at(100), at(percent))));
  assert.ok(!sayTheSame(at(100), at(105)));
});

const minute = 60_000;

test("a reason to hold is told when it changes, not in every window", () => {
  const news = new HoldReasons();
  assert.ok(news.isNews("TooFewTokens", 0));
  for (let at = 1; at < 100; at++) assert.equal(news.isNews("TooFewTokens", at * minute), false, "the same since then");
  assert.ok(news.isNews("Balanced", 100 * minute));
});

test("reasons that take turns are told once in ten minutes each", () => {
  const news = new HoldReasons();
  const reported = Array.from({ length: 240 }, (_, n) => news.isNews(n % 2 === 0 ? "Balanced" : "WithinNoise", (n * minute) / 4)).filter(
    (is) => is,
  );
  assert.equal(reported.length, 2 * 6, "in an hour");
});

test("after a plan every reason is news again", () => {
  const news = new HoldReasons();
  assert.ok(news.isNews("Balanced", 0));
  news.clear();
  assert.ok(news.isNews("Balanced", minute));
});
