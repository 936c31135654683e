// The operator writes times into a status. Those of a clock that was half an hour ahead hold up nothing once the clock is right.

import assert from "node:assert/strict";
import { test } from "node:test";
import { look, servingRanks, start } from "../../../test/kit/deployment/autoscale.ts";
import { deployment, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { pauseOf } from "../../training/core/ends.ts";
import { askMs, decide, remembered } from "../features/autoscale/desired-ranks.ts";
import { waitMs } from "../features/pod-actions.ts";
import { targetRanks } from "../features/ranks.ts";
import { rolloutView } from "../features/rollout-status.ts";

const aheadMs = 1_800_000;
const ahead = new Date(now.getTime() + aheadMs).toISOString();

test("the pause of a rank, and of a trainer, is over", () => {
  const failure = { rank: 1, count: 2, reason: "OutOfcpu", pod: "a", retryTime: ahead };
  assert.equal(waitMs([failure], 1, now), 0);
  assert.equal(waitMs([{ ...failure, retryTime: new Date(now.getTime() + 1_000).toISOString() }], 1, now), 1_000);
  assert.equal(pauseOf({ time: ahead, repeated: 3 }, now), 0);
  assert.ok(pauseOf({ time: now.toISOString(), repeated: 3 }, now) > 0);
});

test("replicas settle anew, and no longer than they always do", () => {
  const expertParallel = { desiredRanks: 3, pendingReplicas: 5, pendingSince: ahead };
  const wanted = deployment({ replicas: 5, elasticity: { settle: "5s" } }, { expertParallel });
  const { settlesInMs, pending } = targetRanks(wanted, now);
  assert.deepEqual([settlesInMs, pending?.since], [5_000, now]);
});

test("canaries bake from now on", () => {
  const rolloutStrategy = { canary: { ranks: 1, analysis: { bake: "1m" } } };
  const before = { phase: "Baking", templateHash: "new", stableRevision: 6, stableTemplateHash: "old", bakeStart: ahead };
  const object = deployment({ rolloutStrategy }, { rollout: before });
  const pods = [pod(0, { templateHash: "old" }), pod(1, { templateHash: "old" }), pod(2)];
  const revisions = [
    { number: 7, templateHash: "new" },
    { number: 6, templateHash: "old" },
  ];
  const rollout = { revisions, rolledBack: undefined };
  const seen = rolloutView(snapshot({ deployment: object, pods, view: view(), rollout }), 3, "roll-9");
  assert.deepEqual([seen.status?.bakeStart, seen.againInMs], ["2026-03-01T10:00:00Z", 60_000]);
});

test("the autoscaler makes its next step, and remembers anew", () => {
  const busy = { serving: servingRanks(3, 480) };
  const step = { time: new Date(start + aheadMs).toISOString(), from: 2, to: 3, message: "" };
  assert.ok(decide(look({ ...busy, lastScale: step })).to > 3);
  const before = [{ at: aheadMs, ranks: 7 }];
  assert.deepEqual(remembered(before, { at: 0, ranks: 2 }, 300_000), [{ at: 0, ranks: 2 }]);
  assert.equal(remembered(before, { at: aheadMs - askMs, ranks: 2 }, 300_000), before, "a second or two are nothing");
});
