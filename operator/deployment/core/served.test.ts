import assert from "node:assert/strict";
import { test } from "node:test";
import { member, pod } from "../../../test/kit/deployment/deployment.ts";
import { type BakeLook, compareServed, type Watched } from "./canary.ts";
import type { MemberView, ServedTotals } from "./world.ts";

const totals = (requests: number): ServedTotals => ({ requests, failed: 1, gaps: requests * 10, gapMicros: requests * 1000 });
const says = (rank: number, requests: number | undefined, more: Partial<MemberView> = {}): MemberView =>
  member(rank, { served: requests === undefined ? undefined : totals(requests), ...more });
const pods = [pod(0, { templateHash: "old" }), pod(1, { templateHash: "old" }), pod(2)];
const look = (members: readonly MemberView[], bake = "a") => {
  const of = (hash: string) => ({ pods: pods.filter(({ templateHash }) => templateHash === hash), members });
  return { bake, canaries: of("new"), others: of("old") };
};

class ServedWatch {
  #watched: Watched | undefined;
  compare(look: BakeLook) {
    const { comparison, watched } = compareServed(this.#watched, look);
    this.#watched = watched;
    return comparison;
  }
}

test("what was served before the first look does not count, for each process by itself", () => {
  const watch = new ServedWatch();
  assert.deepEqual(watch.compare(look([says(0, 500), says(1, 700), says(2, 3)])).canaries, {
    ...{ requests: 0, failed: 0, gaps: 0, gapMicros: 0 },
  });
  const next = watch.compare(look([says(0, 510), says(1, 705), says(2, 9)]));
  assert.deepEqual([next.canaries?.requests, next.others?.requests, next.others?.failed], [6, 15, 0]);
  const restarted = watch.compare(look([says(0, 2, { bootId: "again" }), says(1, 705), says(2, 9)]));
  assert.equal(restarted.others?.requests, 5, "totals of another process are not compared with those of the first");
});

test("a rank that says nothing leaves its side unknown, and another bake begins anew", () => {
  const watch = new ServedWatch();
  assert.equal(watch.compare(look([says(0, 1), says(1, undefined), says(2, 1)])).others, undefined);
  assert.equal(watch.compare(look([says(0, 1), says(1, 1)])).canaries, undefined, "not connected");
  watch.compare(look([says(0, 1), says(1, 1), says(2, 1)]));
  assert.equal(watch.compare(look([says(0, 9), says(1, 9), says(2, 9)])).canaries?.requests, 8);
  assert.equal(watch.compare(look([says(0, 9), says(1, 9), says(2, 9)], "b")).canaries?.requests, 0);
});
