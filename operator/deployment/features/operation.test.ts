// One operation at a time, with an id that lasts, and a bounded history of those that ended.

import assert from "node:assert/strict";
import { test } from "node:test";
import { historyMax } from "../../../crds/operation.ts";
import { deployment, member, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import type { PodFacts, Snapshot } from "../core/snapshot.ts";
import { currentOperation, pastOperations } from "./progress.ts";

const at = (ms: number): Date => new Date(now.getTime() + ms);
const serving = (pods: readonly PodFacts[]) => view({ members: pods.filter(({ ready }) => ready).map(({ rank }) => member(rank)) });
const seen = (pods: readonly PodFacts[], status: object = {}, more: Partial<Snapshot> = {}): Snapshot =>
  snapshot({
    deployment: deployment({}, { expertParallel: { desiredRanks: 3, activeRanks: 3 }, ...status }),
    ...{ pods, view: serving(pods) },
    ...more,
  });
const current = (world: Snapshot, ranks = 3) => currentOperation({ snapshot: world, ranks, actions: [], blocked: undefined, note: "" });
const all = [pod(0), pod(1), pod(2)];
const old = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { templateHash: "old", ...more });
const rollout = {
  revisions: [
    { number: 5, templateHash: "new" },
    { number: 4, templateHash: "old" },
  ],
  rolledBack: undefined,
};
const stable = { rollout: { phase: "Progressing", templateHash: "new", stableTemplateHash: "old" } };

const types: Record<string, { world: Snapshot; ranks?: number; want: [string, string] | undefined }> = {
  "nothing is to be done": { world: seen(all), want: undefined },
  "pods are made for more ranks": { world: seen([...all, pod(3, { ready: false })]), ranks: 4, want: ["Grow", "Creating"] },
  "a rank is lost": { world: seen(all.slice(1)), want: ["Repair", "Creating"] },
  "a rank is emptied": {
    world: seen([pod(0), pod(1), pod(2, { leaving: { reason: "Shrink", sinceMs: 0 } })]),
    ranks: 2,
    want: ["Shrink", "Emptying"],
  },
  "a template rolls": { world: seen([old(0), old(1), pod(2), pod(3, { ready: false })], stable, { rollout }), want: ["Roll", "Creating"] },
  "experts move while pods rest": {
    world: seen(all, {}, { view: view({ members: [member(0), member(1), member(2)], placement: { epoch: 3, phase: "Preparing" } }) }),
    want: ["Rebalance", "Moving"],
  },
};
for (const [sentence, { world, ranks, want }] of Object.entries(types)) {
  test(`the operation when ${sentence}`, () => {
    const found = current(world, ranks);
    assert.deepEqual(found && [found.type, found.phase], want);
  });
}

test("a roll names its revisions, and has the same id under another leader that knows the status alone", () => {
  const pods = [old(0), old(1), old(2), pod(3, { ready: false })];
  const first = current(seen(pods, stable, { rollout }));
  assert.deepEqual([first?.id, first?.from, first?.to], ["roll-1772359200000", { ranks: 3, revision: 4 }, { ranks: 3, revision: 5 }]);
  const later = current(seen(pods, { ...stable, operation: first }, { rollout, now: at(60_000) }));
  assert.deepEqual([later?.id, later?.startTime, later?.deadline], [first?.id, first?.startTime, first?.deadline]);
});

test("a roll to another revision is another operation, and the first one was superseded", () => {
  const pods = [old(0), old(1), old(2), pod(3, { ready: false, templateHash: "middle" })];
  const before = current(seen(pods, stable, { rollout, templateHash: "middle" }));
  const world = seen(pods, { ...stable, operation: before }, { rollout, now: at(5_000) });
  const next = current(world);
  assert.notEqual(next?.id, before?.id);
  assert.deepEqual(
    pastOperations(world, 3, next).map(({ id, result }) => [id, result]),
    [[before?.id, "Superseded"]],
  );
});

test("what ends is remembered once, the newest first and no more than a few; rebalances are not", () => {
  const ended = { ...current(seen(all.slice(1))), id: "repair-1" };
  const past = Array.from({ length: historyMax }, (_, i) => ({ ...ended, id: `grow-${i}`, result: "Done", endTime: now.toISOString() }));
  const world = seen(all, { operation: ended, history: past });
  const history = pastOperations(world, 3, undefined);
  assert.deepEqual([history.length, history[0]?.id, history[0]?.result, history[1]?.id], [historyMax, "repair-1", "Done", "grow-0"]);
  assert.deepEqual(pastOperations(seen(all, { operation: ended, history }), 3, undefined), history, "a look that is repeated");
  const rebalance = { ...ended, id: "rebalance-1", type: "Rebalance" };
  assert.deepEqual(pastOperations(seen(all, { operation: rebalance }), 3, undefined), []);
});
