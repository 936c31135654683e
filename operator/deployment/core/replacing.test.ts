// Ranks that must leave where they are: another is made first, then they are emptied, and nothing that serves goes for a pod that
// has no room.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, member, model, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { type Action, nextStep, type PodsInput } from "../features/pod-actions.ts";
import type { PodFacts, Snapshot } from "./snapshot.ts";
import type { MemberView } from "./world.ts";

const Mi = 2 ** 20;
const say = (action: Action): string =>
  action.type === "create"
    ? `create ${action.rank}`
    : `${action.type} ${action.pod.rank}${action.type === "unmark" ? "" : ` ${action.reason}`}`;
const step = (pods: PodFacts[], more: Partial<PodsInput> & { world?: Partial<Snapshot>; members?: MemberView[] } = {}) => {
  const { world, members, ...input } = more;
  const serving = members ?? pods.filter((one) => one.ready && !one.terminating).map((one) => member(one.rank, { podUid: one.uid }));
  const found = snapshot({ pods, view: view({ members: serving }), ...world });
  const result = nextStep({ snapshot: found, ranks: 3, successor: "Accepted", limitBytes: undefined, ...input });
  return { ...result, said: result.actions.map(say) };
};
const cordoned = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { mustGo: `node-${rank} is cordoned`, ...more });
const old = (rank: number, more: Partial<PodFacts> = {}) => pod(rank, { templateHash: "old", ...more });
const leaving = (reason: "Roll" | "Evict" | "Shrink") => ({ leaving: { reason, sinceMs: now.getTime() } });
const evicted = (rank: number, more: Partial<PodFacts> = {}) =>
  pod(rank, { terminating: true, mustGo: "evicted", goneInMs: 60_000, ...more });
const starting = (rank: number) => pod(rank, { ready: false });
const pending = (rank: number) => pod(rank, { ready: false, node: undefined, problem: "Unschedulable: 0/3 nodes are available" });
const drained = (rank: number, phase: "Drained" | "Blocked" | "Moving" = "Drained") => ({
  drains: [{ rank, podUid: `pod-${rank}`, phase, message: "4 experts would have no host" }],
});
const servingView = (ranks: number[], more: object) => ({ view: view({ members: ranks.map((rank) => member(rank)), ...more }) });

test("a rank on a cordoned node stays as it is until its replacement serves, and then it is emptied", () => {
  assert.deepEqual(step([pod(0), pod(1), cordoned(2)]).said, ["create 3"]);
  assert.deepEqual(step([pod(0), pod(1), cordoned(2), starting(3)]).said, []);
  assert.deepEqual(step([pod(0), pod(1), cordoned(2), pod(3)]).said, ["mark 2 Evict"]);
  const marked = cordoned(2, leaving("Evict"));
  assert.deepEqual(step([pod(0), pod(1), marked, pod(3)]).said, []);
  const empty = { world: servingView([0, 1, 2, 3], drained(2)) };
  assert.deepEqual(step([pod(0), pod(1), marked, pod(3)], empty).said, ["delete 2 RankMoved"]);
  assert.deepEqual(step([pod(0), pod(1), pod(2, { terminating: true, ...leaving("Evict") }), pod(3)]).said, []);
  assert.deepEqual(step([pod(0), pod(1), pod(3)]).said, []);
});

test("a cordon that is lifted: the replacement goes, or the rank that is half empty already", () => {
  assert.deepEqual(step([pod(0), pod(1), pod(2), starting(3)]).said, ["mark 3 Shrink"]);
  assert.deepEqual(step([pod(0), pod(1), pod(2, leaving("Evict")), pod(3)]).said, [], "it goes on leaving");
  assert.deepEqual(step([pod(0), pod(1), pod(2, leaving("Evict"))]).said, ["unmark 2"], "nothing is there in its place");
});

test("without room for the replacement a rank on a cordoned node serves on, and the condition says the bound", () => {
  const waits = step([pod(0), pod(1), cordoned(2), pending(3)], {
    world: {
      deployment: deployment({ experts: { memoryPerRank: 9 * Mi } }),
      ...servingView([0, 1], { model, members: [member(0), member(1), member(2, { uniqueBytes: 5 * Mi })] }),
    },
  });
  assert.deepEqual(waits.said, []);
  assert.equal(waits.blocked?.reason, "NoCapacityForReplacement");
  assert.equal(
    waits.blocked?.message,
    "rank 2 cannot stay (node-2 is cordoned) and there is no capacity for pod moe-3-abcde in its place: Unschedulable: 0/3 nodes are " +
      "available; it serves until it is evicted and then hands over for 75 s at most: the other 2 ranks have room for its experts " +
      "(experts need 16Mi, 2 ranks x 9Mi = 18Mi)",
  );
  const refused = step([pod(0), pod(1), cordoned(2)], {
    surgeError: "exceeded quota: pods",
    world: {
      deployment: deployment({ experts: { memoryPerRank: 7 * Mi } }),
      ...servingView([0, 1], { model, members: [member(0), member(1), member(2, { uniqueBytes: 5 * Mi })] }),
    },
  });
  assert.deepEqual(refused.said, [], "what was refused just now is not asked for again");
  assert.match(refused.blocked?.message ?? "", /no capacity for a pod in its place: exceeded quota: pods; it serves until/);
  assert.match(
    refused.blocked?.message ?? "",
    /75 s at most, and what does not fit on the other 2 ranks .* of its 5Mi is loaded on demand/,
  );
});

test("a rank that must go and cannot be emptied though another is there stays until it is evicted, and that is said", () => {
  const pods = [pod(0), pod(1), cordoned(2, leaving("Evict")), pod(3)];
  const stuck = step(pods, { world: servingView([0, 1, 2, 3], drained(2, "Blocked")) });
  assert.deepEqual(stuck.said, []);
  assert.match(
    stuck.blocked?.message ?? "",
    /^rank 2 cannot stay \(node-2 is cordoned\) and cannot be emptied: 4 experts would have no host/,
  );
});

test("a pod that is being evicted is replaced at once under another rank, and while it hands over nothing else is done", () => {
  assert.deepEqual(step([pod(0), pod(1), evicted(2)]).said, ["create 3"]);
  assert.deepEqual(step([pod(0), pod(1), evicted(2), starting(3)]).said, []);
  const packed = step([pod(0), pod(1), evicted(2), pending(3)]);
  assert.equal(packed.blocked?.reason, "NoCapacityForReplacement");
  assert.match(packed.blocked?.message ?? "", /^rank 2 is going \(evicted\) and there is no capacity for pod moe-3-abcde in its place/);
});

test("two ranks that must go at once: each is emptied when one more than the wanted ranks serves", () => {
  const both = [pod(0), cordoned(1), cordoned(2)];
  assert.deepEqual(step(both).said, ["create 3", "create 4"]);
  assert.deepEqual(step([...both, pod(3), starting(4)]).said, ["mark 2 Evict"]);
  assert.deepEqual(step([pod(0), cordoned(1), cordoned(2, leaving("Evict")), pod(3), starting(4)]).said, []);
  assert.deepEqual(step([pod(0), cordoned(1), cordoned(2, leaving("Evict")), pod(3), pod(4)]).said, ["mark 1 Evict"]);
  assert.deepEqual(step([pod(0), evicted(1), evicted(2)]).said, ["create 3", "create 4"]);
});

test("with all nodes cordoned no more than four are replaced at a time, and none stops serving before", () => {
  const all = Array.from({ length: 6 }, (_, rank) => cordoned(rank));
  assert.deepEqual(step(all, { ranks: 6 }).said, ["create 6", "create 7", "create 8", "create 9"]);
  const one = [...all, pod(6), starting(7), starting(8), starting(9)];
  assert.deepEqual(step(one, { ranks: 6 }).said, ["mark 5 Evict"]);
});

test("a pod on a cordoned node that never served is made again elsewhere", () => {
  assert.deepEqual(step([pod(0), pod(1), cordoned(2, { ready: false })], { members: [member(0), member(1)] }).said, ["delete 2 RankMoved"]);
});

test("a roll makes one pod more, empties the highest old rank when that serves, and goes on from there", () => {
  assert.deepEqual(step([old(0), old(1), old(2)]).said, ["create 3"]);
  assert.deepEqual(step([old(0), old(1), old(2), starting(3)]).said, []);
  assert.deepEqual(step([old(0), old(1), old(2), pod(3)]).said, ["mark 2 Roll"]);
  assert.deepEqual(step([old(0), old(1), old(2, leaving("Roll")), pod(3)]).said, []);
  const empty = { world: servingView([0, 1, 2, 3], drained(2)) };
  assert.deepEqual(step([old(0), old(1), old(2, leaving("Roll")), pod(3)], empty).said, ["delete 2 Rolled"]);
  assert.deepEqual(step([old(0), old(1), pod(3)]).said, ["create 2"]);
  assert.deepEqual(step([old(0), pod(2), pod(3)]).said, ["create 1"]);
  assert.deepEqual(step([old(0), pod(1), pod(2), pod(3)]).said, ["mark 0 Roll"]);
});

test("a roll without room for one more goes on in the old way: the rank is emptied onto the others, and the pod that waits follows it", () => {
  const waits = step([old(0), old(1), old(2), pending(3)]);
  assert.deepEqual(waits.said, ["mark 2 Roll"]);
  assert.match(
    waits.note,
    /no capacity for one more pod \(moe-3-abcde: Unschedulable: 0\/3 nodes are available\): ranks are replaced one by one/,
  );
  assert.deepEqual(step([old(0), old(1), old(2, leaving("Roll")), pending(3)]).said, [], "one at a time");
  assert.deepEqual(step([old(0), old(1), starting(3)]).said, ["create 2"]);
  assert.deepEqual(step([old(0), old(1), starting(3), pending(2)]).said, [], "not before it serves");
  const packed = { surgeError: "exceeded quota: pods" };
  assert.deepEqual(step([old(0), old(1), old(2)], packed).said, ["mark 2 Roll"]);
  assert.deepEqual(step([old(0), old(1), old(2, { terminating: true, ...leaving("Roll") })], packed).said, [], "it still takes the room");
  assert.deepEqual(step([old(0), old(1)], packed).said, ["create 2"]);
});

test("a roll whose one pod more is refused by its node again and again goes on without it", () => {
  const failed = { rank: 3, count: 3, reason: "OutOfcpu", pod: "moe-3-x", retryTime: new Date(now.getTime() + 2_000).toISOString() };
  const status = { observedGeneration: 1, expertParallel: { podFailures: [failed] } };
  const again = step([old(0), old(1), old(2)], { world: { deployment: deployment({}, status) } });
  assert.deepEqual(again.said, ["mark 2 Roll"]);
  assert.match(again.note, /no capacity for one more pod \(3 pods of rank 3 ended in a row \(OutOfcpu\)\)/);
});

test("a new template that never starts takes nothing away from what serves", () => {
  const broken = pod(3, { ready: false, problem: "ImagePullBackOff" });
  assert.deepEqual(step([old(0), old(1), old(2), broken]).said, []);
});

test("an eviction during a roll gets a pod of its own, and the roll waits for it", () => {
  const rolling = old(2, leaving("Roll"));
  assert.deepEqual(step([old(0), evicted(1), rolling, pod(3)]).said, ["create 4"]);
  assert.deepEqual(step([old(0), evicted(1), rolling, pod(3), starting(4)]).said, []);
  assert.deepEqual(
    step([old(0), cordoned(1, { templateHash: "old" }), old(2), pod(3)]).said,
    ["mark 1 Evict"],
    "the one that must go first",
  );
});

test("a shrink while a node is cordoned takes the rank there", () => {
  assert.deepEqual(step([pod(0), pod(1), cordoned(2)], { ranks: 2 }).said, ["mark 2 Evict"]);
  assert.deepEqual(step([pod(0), pod(1), cordoned(2, leaving("Shrink"))], { ranks: 2 }).said, []);
});

test("a new leader that has reached nobody yet goes on from the pods alone", () => {
  const world = { warmingUp: true, view: undefined };
  assert.deepEqual(step([pod(0), pod(1), cordoned(2, leaving("Evict")), pod(3)], { world }).said, []);
  assert.deepEqual(step([pod(0), pod(1), cordoned(2), starting(3)], { world }).said, []);
  assert.deepEqual(step([pod(0), pod(1), evicted(2), starting(3)], { world }).said, []);
});
