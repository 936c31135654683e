// The rules of a roll: its budget, who keeps the template of before, when it stands still, and when it has failed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { type Action, nextStep } from "../features/pod-actions.ts";
import { judgeRoll, rollHold, rollRules } from "./rollout.ts";
import type { PodFacts, RolloutFacts } from "./snapshot.ts";

const revisions = [
  { number: 2, templateHash: "new" },
  { number: 1, templateHash: "old" },
];
const stable = { phase: "Progressing", templateHash: "new", stableRevision: 1, stableTemplateHash: "old" };
const rolledBack = {
  ...{ id: "roll-1", templateHash: "bad", fromRevision: 2, toRevision: 3, reason: "Crashing", message: "it crashed" },
  time: now.toISOString(),
};
const old = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { templateHash: "old", ...more });
const leaving = { leaving: { reason: "Roll" as const, sinceMs: now.getTime() } };
const starting = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { ready: false, ...more });

function world(strategy: object, pods: readonly PodFacts[], { rollout = {}, facts = {} }: { rollout?: object; facts?: object } = {}) {
  const known: RolloutFacts = { revisions, rolledBack: undefined, ...facts };
  const object = deployment({ rolloutStrategy: strategy }, { rollout: { ...stable, ...rollout } });
  return snapshot({ deployment: object, pods, view: view(), rollout: known });
}
const say = (action: Action): string =>
  action.type === "create"
    ? `create ${action.rank}${action.stable ? " stable" : ""}`
    : `${action.type} ${action.pod.rank}${action.type === "unmark" ? "" : ` ${action.reason}`}`;
const steps = (seen: ReturnType<typeof world>, ranks = 3): string[] =>
  nextStep({ snapshot: seen, ranks, successor: "Accepted", limitBytes: undefined }).actions.map(say);

const all = [old(0), old(1), old(2)];
const cases: Record<string, { strategy: object; pods: readonly PodFacts[]; more?: object; want: string[] }> = {
  "one pod more at a time is the default": { strategy: {}, pods: all, want: ["create 3"] },
  "several more are made at once": { strategy: { maxSurge: 2 }, pods: all, want: ["create 3", "create 4"] },
  "a share of the surge is rounded up": { strategy: { maxSurge: "40%" }, pods: all, want: ["create 3", "create 4"] },
  "a share that may be missing is rounded down": {
    strategy: { maxSurge: "0%", maxUnavailable: "70%" },
    pods: all,
    want: ["mark 2 Roll", "mark 1 Roll"],
  },
  "where shares leave none one may be missing": { strategy: { maxSurge: 0, maxUnavailable: "10%" }, pods: all, want: ["mark 2 Roll"] },
  "and each that serves lets one old rank go": { strategy: { maxSurge: 2 }, pods: [...all, pod(3), starting(4)], want: ["mark 2 Roll"] },
  "both serve: two go": { strategy: { maxSurge: 2 }, pods: [...all, pod(3), pod(4)], want: ["mark 2 Roll", "mark 1 Roll"] },
  "no more are emptied than the budget says": {
    strategy: { maxSurge: 2 },
    pods: [old(0), old(1), old(2, leaving), pod(3), pod(4)],
    want: ["mark 1 Roll"],
  },
  "a rank that was to go for a template that is rolled back stays": {
    strategy: {},
    pods: [pod(0), pod(1), pod(2, leaving), old(3, { ready: false })],
    want: ["unmark 2", "mark 3 Shrink"],
  },
  "even where it is empty": { strategy: {}, pods: [pod(0), pod(1), pod(2, leaving)], want: ["unmark 2"] },
  "without a surge a rank is emptied first": { strategy: { maxSurge: 0, maxUnavailable: 1 }, pods: all, want: ["mark 2 Roll"] },
  "and made again when it is gone": { strategy: { maxSurge: 0, maxUnavailable: 1 }, pods: [old(0), old(1)], want: ["create 2"] },
  "the next one waits until that serves": {
    strategy: { maxSurge: 0, maxUnavailable: 1 },
    pods: [old(0), old(1), starting(2)],
    want: [],
  },
  "a rank that is missing for another reason counts": {
    strategy: { maxSurge: 0, maxUnavailable: 1 },
    pods: [old(0), old(1, { ready: false, silent: true }), old(2)],
    want: ["delete 1 Rolled"],
  },
  "both budgets add up": { strategy: { maxSurge: 1, maxUnavailable: 1 }, pods: all, want: ["create 3"] },
  "and a rank that may be missing is emptied while the surge starts": {
    strategy: { maxSurge: 1, maxUnavailable: 1 },
    pods: [...all, starting(3)],
    want: ["mark 2 Roll"],
  },
  "a partition keeps ranks as they are": { strategy: { partition: 2 }, pods: [old(0), old(1), pod(3)], want: [] },
  "a lost one of them is made of the template it had": { strategy: { partition: 2 }, pods: [old(0), pod(3)], want: ["create 1 stable"] },
  "a lost one of the others of the new": { strategy: { partition: 2 }, pods: [old(0), old(1)], want: ["create 2"] },
  "ranks that are added keep to the partition": { strategy: { partition: 3 }, pods: [old(0), old(1)], want: ["create 2 stable"] },
  "a rank that must leave its node keeps its template, too": {
    strategy: { partition: 3 },
    pods: [old(0), old(1), old(2, { mustGo: "node b is cordoned" })],
    want: ["create 3 stable"],
  },
  "paused before it began, nothing is replaced": { strategy: { paused: true }, pods: all, want: [] },
  "and what is lost is made as it was": { strategy: { paused: true }, pods: [old(0), old(2)], want: ["create 1 stable"] },
  "paused in the middle, a pod that is there takes its place": {
    strategy: { paused: true },
    pods: [...all, pod(3)],
    want: ["mark 2 Roll"],
  },
  "and no other is made": { strategy: { paused: true }, pods: [old(0), old(1), pod(3)], want: [] },
  "canaries come first": { strategy: { canary: {} }, pods: all, want: ["create 3"] },
  "and the others wait for them": { strategy: { canary: {} }, pods: [old(0), old(1), pod(3)], want: [] },
  "they are as many as asked for": { strategy: { canary: { ranks: 2 } }, pods: [old(0), old(1), pod(3)], want: ["create 2"] },
  "when they have passed the others follow": {
    strategy: { canary: {} },
    pods: [old(0), old(1), pod(3)],
    more: { rollout: { bakedTemplateHash: "new" } },
    want: ["create 2"],
  },
  "OnDelete leaves serving pods alone": { strategy: { type: "OnDelete" }, pods: all, want: [] },
  "and those that do not serve": { strategy: { type: "OnDelete" }, pods: [old(0), old(1), old(2, { ready: false })], want: [] },
  "what is deleted comes back new": { strategy: { type: "OnDelete" }, pods: [old(0), old(1)], want: ["create 2"] },
  "a roll back asks neither partition nor pause": {
    strategy: { partition: 3, paused: true, type: "OnDelete" },
    pods: [pod(0), pod(1), pod(3, { templateHash: "bad" })],
    more: { facts: { rolledBack } },
    want: ["create 2"],
  },
  "and takes what does not start away at once": {
    strategy: { canary: {} },
    pods: [pod(0), pod(1), starting(3, { templateHash: "bad" })],
    more: { facts: { rolledBack } },
    want: ["delete 3 Rolled"],
  },
};
for (const [sentence, { strategy, pods, more, want }] of Object.entries(cases))
  test(sentence, () => assert.deepEqual(steps(world(strategy, pods, more)), want));

test("without a known template of before, what is lost is made new", () => {
  assert.deepEqual(steps(world({ partition: 2 }, [old(0), pod(3)], { rollout: { stableTemplateHash: "gone" } })), ["create 1"]);
});

test("a roll that does nothing now says why", () => {
  const phase = (strategy: object, pods: readonly PodFacts[], more: object = {}) => rollHold(world(strategy, pods, more), 3)?.phase;
  const partly = [old(0), old(1), pod(3)];
  assert.equal(phase({}, partly), undefined);
  assert.equal(phase({ paused: true }, all), "Paused");
  assert.equal(phase({ partition: 2 }, partly), "Partitioned");
  assert.equal(phase({ canary: {} }, partly), "Baking");
  assert.equal(phase({ canary: {} }, partly, { rollout: { bakedTemplateHash: "new" } }), undefined);
  assert.equal(phase({ canary: {}, partition: 2 }, partly, { rollout: { bakedTemplateHash: "new" } }), "Partitioned");
  assert.equal(phase({ type: "OnDelete" }, all), "OnDelete");
  assert.equal(phase({ paused: true }, [pod(0), pod(1), pod(2)]), undefined, "nothing is to be rolled");
  assert.equal(phase({ paused: true }, [...all, pod(3)]), undefined, "what has begun is finished");
  assert.equal(phase({ partition: 2 }, [old(0), old(1), starting(3)]), undefined, "it has yet to start");
});

const late = { unreadySinceMs: now.getTime() - 600_000 };
const failures: Record<string, { pod: Partial<PodFacts>; strategy?: object; more?: object; beside?: Partial<PodFacts>; want?: string }> = {
  "a pod that starts has its time": { pod: {} },
  "one that is not ready within the deadline": { pod: late, want: "ProgressDeadlineExceeded" },
  "a shorter deadline": {
    pod: { unreadySinceMs: now.getTime() - 20_000 },
    strategy: { progressDeadline: "20s" },
    want: "ProgressDeadlineExceeded",
  },
  "an image that cannot be pulled has its time, since a registry may be away": { pod: { problem: "ImagePullBackOff: no" } },
  "an image whose name is none": { pod: { problem: "InvalidImageName: couldn't parse" }, want: "ImageUnavailable" },
  "three crashes": { pod: { restarts: 3, problem: "CrashLoopBackOff: exit code 1" }, want: "Crashing" },
  "a crash for which the spec is at fault": { pod: { restarts: 1, end: { code: "KvPoolTooSmall", message: "" } }, want: "Crashing" },
  "two crashes": { pod: { restarts: 2, problem: "CrashLoopBackOff: exit code 1" } },
  "a pod that serves and had crashed before": { pod: { ready: true, unreadySinceMs: undefined, restarts: 9 } },
  "no room for the first pod of a template, which may ask for a node that is nowhere": {
    pod: { ...late, problem: "Unschedulable: 0/3 nodes" },
    want: "ProgressDeadlineExceeded",
  },
  "no room where another of the template serves": { pod: { ...late, problem: "Unschedulable: 0/3 nodes" }, beside: {} },
  "a node that does not answer": { pod: { ...late, silent: true } },
  "a pod that is on its way out": { pod: { ...late, terminating: true } },
  "an old pod": { pod: { ...late, templateHash: "old" } },
  "the owner waits": { pod: late, strategy: { onFailure: "Wait" } },
  "the owner replaces pods himself": { pod: late, strategy: { type: "OnDelete" } },
  "no other template is known to be good": { pod: late, more: { rollout: { stableTemplateHash: undefined } } },
  "every rank has served with it": { pod: late, more: { rollout: { stableTemplateHash: "new" } } },
  "its revision is gone": { pod: late, more: { facts: { revisions: revisions.slice(0, 1) } } },
  "a roll back is under way": { pod: late, more: { facts: { rolledBack } } },
};
for (const [sentence, { pod: facts, strategy = {}, more, beside, want }] of Object.entries(failures)) {
  test(`whether a roll has failed: ${sentence}`, () => {
    const pods = [old(0), old(1), starting(3, facts), ...(beside ? [pod(4, beside)] : [])];
    assert.equal(judgeRoll(world(strategy, pods, more)).failure?.reason, want);
  });
}

test("a failure names the pod and what is wrong with it, and the next look comes when a pod is out of time", () => {
  const { failure } = judgeRoll(world({}, [old(0), starting(3, { ...late, problem: "ErrImagePull: not found" })]));
  assert.equal(failure?.message, "pod moe-3-abcde of rank 3 is not ready after 10m: ErrImagePull: not found");
  assert.equal(judgeRoll(world({}, [old(0), starting(3, { unreadySinceMs: now.getTime() - 599_000 })])).dueInMs, 1000);
  assert.equal(judgeRoll(world({}, [old(0), pod(3)])).dueInMs, undefined);
});

test("ranks that are wanted bound what is kept", () => {
  const kept = (strategy: object, ranks: number) => rollRules(world(strategy, all), ranks).kept;
  assert.deepEqual([kept({ partition: 9 }, 3), kept({ canary: { ranks: 5 } }, 3), kept({ canary: { ranks: 1 } }, 3)], [3, 0, 2]);
});
