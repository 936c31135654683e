import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { calibrated, exposedSeconds, type Materialised, overlapDegree } from "./calibrate.ts";

test("the overlap degree is how many experts' bytes come while other work is done", () => {
  assert.equal(overlapDegree(0.5, 64e6, 10e6), 3);
  assert.equal(overlapDegree(0.5, 64e6, 33e6), 0);
  assert.equal(overlapDegree(0.3, 10, 1), 3, "rounding is not in the way");
  assert.equal(overlapDegree(0, 64e6, 1), 0);
  assert.equal(overlapDegree(0, 0, 0), Number.POSITIVE_INFINITY, "without bytes there is nothing to hide");
});

const way = (worst: number, arrivals: number[]): Materialised => ({ hosts: [], worst, arrivals });

test("what a transfer shows is the expert replicas beyond the overlap at the rank with most of them", () => {
  const exposure = { overlap: 2, secondsPerExpertReplica: 3, secondsPerPoint: 0 };
  assert.equal(exposedSeconds(way(1, [2, 1, 0]), exposure), 0);
  assert.equal(exposedSeconds(way(1, [2, 4, 3]), exposure), 6);
  assert.equal(
    exposedSeconds(way(1, [2, 1, 0]), { ...exposure, busyPerExpertReplica: 0.5 }),
    1,
    "nothing hides what keeps a processor busy",
  );
  assert.equal(exposedSeconds(way(1, [2, 4, 3]), { ...exposure, busyPerExpertReplica: 0.5 }), 8);
});

test("expert replicas beyond the overlap must beat the time that their transfer shows", () => {
  const exposure = { overlap: 1, secondsPerExpertReplica: 2, secondsPerPoint: 10 };
  const hidden = way(1.5, [1, 1]);
  const more = way(1.3, [2, 1]); // saves 2 s, shows 2 s
  const most = way(1.25, [3, 1]); // saves 2.5 s, shows 4 s
  assert.equal(calibrated([hidden, more, most], exposure), hidden);
  assert.equal(calibrated([hidden, more, most], { ...exposure, secondsPerPoint: 11 }), more);
  assert.equal(calibrated([hidden, more, most], { ...exposure, secondsPerPoint: 50 }), most);
  const unnoticed = way(1.45, [1, 1]);
  assert.equal(calibrated([hidden, unnoticed], exposure), unnoticed, "what nothing shows needs only to be better");
});

test("slower links or less to save never bring more expert replicas into the open", () => {
  const ways = fc.array(
    fc.record({ worst: fc.double({ min: 1, max: 9, noNaN: true }), arrivals: fc.array(fc.nat(9), { minLength: 3, maxLength: 3 }) }),
    { minLength: 1, maxLength: 5 },
  );
  const positive = fc.double({ min: 0.01, max: 100, noNaN: true });
  fc.assert(
    fc.property(
      ways,
      fc.nat(4),
      positive,
      positive,
      fc.double({ min: 1, max: 50, noNaN: true }),
      (found, overlap, expertReplica, point, times) => {
        const all = found.map(({ worst, arrivals }) => way(worst, arrivals)) as [Materialised, ...Materialised[]];
        const base = { overlap, secondsPerExpertReplica: expertReplica, secondsPerPoint: point };
        const unit = { ...base, secondsPerExpertReplica: 1 };
        const shown = (exposure: typeof base): number => exposedSeconds(calibrated(all, exposure), unit);
        assert.ok(shown({ ...base, secondsPerExpertReplica: expertReplica * times }) <= shown(base));
        assert.ok(shown({ ...base, secondsPerPoint: point / times }) <= shown(base));
      },
    ),
    { numRuns: 2000, seed: 1 },
  );
});
