// The things that must outlive a look at a roll: the good template, the time of canaries, and what was rolled back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import type { PodFacts, RolloutFacts } from "../core/snapshot.ts";
import { rolloutView } from "./rollout-status.ts";

const revisions = [
  { number: 7, templateHash: "new" },
  { number: 6, templateHash: "old" },
];
const old = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { templateHash: "old", ...more });
interface World {
  readonly strategy?: object;
  readonly before?: object;
  readonly facts?: Partial<RolloutFacts>;
  readonly atMs?: number;
}
function look(pods: readonly PodFacts[], { strategy = {}, before, facts, atMs = 0 }: World = {}) {
  const object = deployment({ rolloutStrategy: strategy }, before ? { rollout: before } : {});
  const rollout: RolloutFacts = { revisions, rolledBack: undefined, ...facts };
  const seen = snapshot({ now: new Date(now.getTime() + atMs), deployment: object, pods, view: view(), rollout });
  return rolloutView(seen, 3, "roll-9");
}
const status = (...args: Parameters<typeof look>) => look(...args).status;
const rolling = { phase: "Progressing", templateHash: "new", stableRevision: 6, stableTemplateHash: "old" };
const whole = [pod(0), pod(1), pod(2)];

test("the template with which every rank serves is the good one, until another is", () => {
  assert.deepEqual([status(whole)?.stableRevision, status(whole)?.phase], [7, "Complete"]);
  const half = status([old(0), pod(1), pod(2)], { before: rolling });
  assert.deepEqual([half?.stableRevision, half?.revision, half?.updatedRanks, half?.phase], [6, 7, 2, "Progressing"]);
  assert.equal(status([pod(0), pod(1), pod(2, { ready: false })], { before: rolling })?.stableRevision, 6, "one does not serve");
  assert.equal(status([...whole, old(3)], { before: rolling })?.stableRevision, 6, "one is still there");
});

test("where the status is lost, pods that serve say which template was good", () => {
  assert.equal(status([old(0), old(1), pod(2, { ready: false })])?.stableRevision, 6);
  assert.equal(status([old(0, { ready: false }), pod(2, { ready: false })])?.stableRevision, undefined);
});

test("a roll that fails is kept with both revisions and the operation, and asks for another look at once", () => {
  const crashed = [old(0), old(1), old(2), pod(3, { ready: false, restarts: 3, problem: "CrashLoopBackOff" })];
  const { status: found, againInMs } = look(crashed, { before: rolling });
  assert.deepEqual(
    [found?.rolledBack?.id, found?.rolledBack?.fromRevision, found?.rolledBack?.toRevision, found?.rolledBack?.templateHash, againInMs],
    ["roll-9", 7, 6, "new", 1],
  );
  assert.equal(found?.phase, "RollingBack");
  assert.equal(look(crashed).status?.rolledBack, undefined, "nothing was good before");
});

test("it is told as long as the spec asks for it, and forgotten then", () => {
  const { rolledBack } = status([old(0), pod(3, { ready: false, restarts: 3 })], { before: rolling }) ?? {};
  assert.ok(rolledBack);
  const back = { ...rolling, templateHash: "old", rolledBack };
  const facts = { revisions: [{ number: 8, templateHash: "old" }, ...revisions] };
  const seen = (pods: readonly PodFacts[], more: Partial<RolloutFacts>) => {
    const object = deployment({}, { rollout: back });
    const rollout = { ...facts, rolledBack: undefined, ...more };
    return rolloutView(snapshot({ deployment: object, pods, view: view(), templateHash: "old", rollout }), 3, undefined).status;
  };
  const good = [old(0), old(1), old(2)];
  assert.equal(seen([...good, pod(3)], { rolledBack })?.phase, "RollingBack");
  assert.deepEqual([seen(good, { rolledBack })?.phase, seen(good, { rolledBack })?.stableRevision], ["RolledBack", 8]);
  assert.deepEqual([seen(good, {})?.phase, seen(good, {})?.rolledBack], ["Complete", undefined]);
});

test("canaries bake while all of them serve, from the first moment that they do", () => {
  const strategy = { canary: { ranks: 1, analysis: { bake: "1m" } } };
  const pods = [old(0), old(1), pod(2)];
  const first = look(pods, { strategy, before: rolling });
  assert.deepEqual([first.status?.phase, first.status?.bakeStart, first.againInMs], ["Baking", "2026-03-01T10:00:00Z", 60_000]);
  const before = first.status as object;
  const later = look(pods, { strategy, before, atMs: 40_000 });
  assert.deepEqual([later.status?.bakeStart, later.againInMs], ["2026-03-01T10:00:00Z", 20_000]);
  assert.equal(status([old(0), old(1), pod(2, { ready: false })], { strategy, before, atMs: 40_000 })?.bakeStart, undefined);
  const over = look(pods, { strategy, before, atMs: 60_000 });
  assert.deepEqual([over.status?.bakedTemplateHash, over.againInMs], ["new", 1]);
});

test("canaries that are to be compared bake on until they can be", () => {
  const strategy = { canary: { ranks: 1, analysis: { bake: "1m", errorRatePercent: 1, minRequests: 5 } } };
  const pods = [old(0), old(1), pod(2)];
  const before = { ...rolling, bakeStart: now.toISOString() };
  const served = (requests: number, failed = 0) => ({ requests, failed, gaps: 0, gapMicros: 0 });
  const at = (canaries: object, atMs: number) =>
    look(pods, { strategy, before, atMs, facts: { comparison: { canaries: canaries as never, others: served(9) } } });
  const waits = at(served(4), 90_000);
  assert.deepEqual([waits.status?.bakedTemplateHash, waits.againInMs], [undefined, 10_000]);
  assert.match(waits.status?.message ?? "", /canaries have ended 4 of 5 requests/);
  assert.equal(at(served(5), 90_000).status?.bakedTemplateHash, "new");
  assert.equal(at(served(5), 30_000).status?.bakedTemplateHash, undefined, "its time is not over");
  assert.equal(at(served(5, 5), 30_000).status?.rolledBack?.reason, "ErrorRateExceeded", "what fails waits for no end");
});
