// Pods that are told their world and asked how they stand: never waited for, a bounded number at once, less often while they are silent,
// and at once where there is another world.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import type { PodReport, TrainingWorld } from "../../crds/training-world.ts";
import { PodTalks, type Question } from "./pod-talks.ts";

function world() {
  const open: { readonly question: Question; readonly answer: (reports: PodReport | undefined) => void }[] = [];
  const state = { ms: 0, reported: [] as string[], open };
  const talks = new PodTalks({
    ask: (question) => new Promise((answer) => void open.push({ question, answer })),
    onReport: (key) => void state.reported.push(key),
    now: () => state.ms,
  });
  return { state, talks };
}
const pod = (i: number) => ({ uid: `u${i}`, ip: `10.0.0.${i}`, rank: 0, stops: false });
const job = (epoch = 0) => {
  const decided: TrainingWorld = { epoch, since: "2026-01-01T00:00:00Z", ranks: [] };
  return {
    namespace: "ns",
    job: "j",
    jobUid: "job",
    identity: { cert: "", key: "", ca: "" },
    world: epoch === 0 ? undefined : decided,
    restless: false,
  };
};
const reports = (i: number, epoch = 0): PodReport => ({ pod: `u${i}`, epoch, training: 0, progress: { step: 4, curve: [] } });

test("nobody waits for an answer, and a job is looked at again once there is one", async () => {
  const { state, talks } = world();
  talks.tell("ns/j", job(), [pod(1)]);
  talks.tell("ns/j", job(), [pod(1)]);
  assert.equal(talks.reports("ns/j").size, 0);
  assert.equal(state.open.length, 1, "one question at a time");
  assert.deepEqual(state.open[0]?.question.order, { job: "job", pod: "u1" });
  state.open[0]?.answer(reports(1));
  await setImmediate();
  assert.deepEqual(state.reported, ["ns/j"]);
  assert.deepEqual(talks.reports("ns/j").get("u1"), reports(1));
  talks.tell("ns/j", job(), [pod(1)]);
  assert.equal(state.open.length, 1, "not due yet");
  talks.tell("ns/j", job(), [{ ...pod(1), ip: "10.0.0.9" }]);
  assert.equal(talks.reports("ns/j").size, 0, "at another address nobody has said anything yet");
});

test("a pod is told of another world at once, and again until it says that it knows it", async () => {
  const { state, talks } = world();
  talks.tell("ns/j", job(), [pod(1)]);
  state.open[0]?.answer(reports(1));
  await setImmediate();
  talks.tell("ns/j", job(1), [pod(1)]);
  assert.equal(state.open[1]?.question.order.world?.epoch, 1);
  state.open[1]?.answer(reports(1, 0));
  await setImmediate();
  talks.tell("ns/j", job(1), [pod(1)]);
  assert.equal(state.open.length, 3);
  state.open[2]?.answer(reports(1, 1));
  await setImmediate();
  talks.tell("ns/j", job(1), [pod(1)]);
  assert.equal(state.open.length, 3, "not due yet");
});

test("hundreds of silent pods take a bounded number of questions, and one that answers comes through", async () => {
  const { state, talks } = world();
  for (let i = 0; i < 200; i++) talks.tell(`ns/${i}`, job(), [pod(i)]);
  assert.equal(state.open.length, 8);
  talks.forget("ns/8");
  state.open[0]?.answer(undefined);
  await setImmediate();
  assert.equal(state.open.length, 9);
  assert.equal(state.open[8]?.question.ip, "10.0.0.9", "a pod that is gone is not asked");
  assert.deepEqual(state.reported, [], "silence is no news");
});

test("a pod that has answered once and falls silent is asked less and less often, and counts as silent", async () => {
  const { state, talks } = world();
  talks.tell("ns/j", job(), [pod(1)]);
  state.open[0]?.answer(reports(1));
  await setImmediate();
  const asked: number[] = [];
  for (; state.ms <= 180_000; state.ms += 1_000) {
    const before = state.open.length;
    talks.tell("ns/j", job(), [pod(1)]);
    if (state.open.length === before) continue;
    asked.push(state.ms / 1000);
    assert.equal(talks.silence("ns/j", "u1"), asked.length - 1);
    state.open.at(-1)?.answer(undefined);
    await setImmediate();
  }
  assert.deepEqual(asked, [2, 6, 14, 30, 62, 122]);
  assert.deepEqual(talks.reports("ns/j").get("u1"), reports(1), "what it said stays");
  assert.deepEqual(state.reported, ["ns/j", "ns/j"], "that it fell silent is news, and no more than that");
});

test("pods of a world that may not stand are asked soon again, and one that is to end at once", async () => {
  const { state, talks } = world();
  const answered = async (): Promise<void> => {
    state.open.at(-1)?.answer(reports(1));
    await setImmediate();
  };
  talks.tell("ns/j", job(), [pod(1)]);
  await answered();
  state.ms += 400;
  talks.tell("ns/j", { ...job(), restless: true }, [pod(1)]);
  assert.equal(state.open.length, 1);
  state.ms += 100;
  talks.tell("ns/j", { ...job(), restless: true }, [pod(1)]);
  assert.equal(state.open.length, 2);
  await answered();
  const ending = { ...pod(1), stops: true };
  talks.tell("ns/j", job(), [ending]);
  assert.deepEqual(state.open[2]?.question.order, { job: "job", pod: "u1", stop: true });
  await answered();
  talks.tell("ns/j", job(), [ending]);
  assert.equal(state.open.length, 3, "it is told once, and then as all are");
});
