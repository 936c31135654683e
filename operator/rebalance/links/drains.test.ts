// A rank that leaves is emptied of requests, or taken back.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LeavingRank } from "../../deployment/ports.ts";
import type { RankView } from "../observed.ts";
import { type DrainStep, Drains } from "./drains.ts";

const drainMs = 60_000;
const leaving: LeavingRank = { rank: 1, podUid: "p", reason: "Shrink" };
const none = () => false;
const step = (views: DrainStep["views"], marked: DrainStep["leaving"], planned: DrainStep["planned"], now: number): DrainStep => ({
  ...{ views, leaving: marked, planned, now },
  ...{ blocked: new Map(), drainMs },
});
const phaseOf = (drains: Drains, mark: LeavingRank) => drains.view({ leaving: [mark], blocked: new Map() })[0]?.phase;

/** A worker whose Drain calls fail while `broken`. */
function worker() {
  const calls: ("drain" | "cancel")[] = [];
  const times: (number | "cancel")[] = [];
  const state = { draining: false, activeRequests: 1, broken: false, lost: false, usable: true, terminating: false };
  const link = {
    get status() {
      return { draining: state.draining, activeRequests: state.activeRequests };
    },
    drain: async (finishMs: number | "cancel") => {
      calls.push(finishMs === "cancel" ? "cancel" : "drain");
      times.push(finishMs);
      if (state.broken) throw new Error("unavailable");
      state.draining = finishMs !== "cancel";
    },
  };
  const view = (mark?: LeavingRank) =>
    ({
      rank: 1,
      pod: { uid: "p", terminating: state.terminating },
      link,
      report: link,
      leaving: mark,
      lost: state.lost,
      usable: state.usable,
    }) as unknown as RankView;
  return { calls, times, state, view };
}

test("a rank that is taken back is told so until its status says that it serves, at most once a second", async () => {
  const { calls, state, view } = worker();
  // A new leader finds it so: this operator process never told it anything.
  Object.assign(state, { draining: true, broken: true });
  const drains = new Drains();
  for (let now = 0; now <= 2_000; now += 200) {
    drains.step(step([view()], [], none, now));
    await Promise.resolve();
  }
  assert.deepEqual(calls, ["cancel", "cancel", "cancel"]);
  state.broken = false;
  drains.step(step([view()], [], none, 3_000));
  drains.step(step([view()], [], none, 10_000));
  assert.equal(calls.length, 4, "its status says that it serves");
});

test("a pod that ends drains by itself and is not told otherwise", () => {
  const { calls, state, view } = worker();
  Object.assign(state, { draining: true, terminating: true });
  new Drains().step(step([view()], [], none, 0));
  assert.deepEqual(calls, []);
});

test("a leaving rank is drained once its experts are elsewhere, and Drained when its requests are done", () => {
  const { calls, state, view } = worker();
  const drains = new Drains();
  const phase = (planned: boolean, now: number) => {
    drains.step(step([view(leaving)], [leaving], () => planned, now));
    return phaseOf(drains, leaving);
  };
  assert.equal(phase(true, 0), "Moving");
  assert.deepEqual(calls, []);
  assert.equal(phase(false, 1_000), "Draining");
  state.usable = false; // its stream has a moment's trouble
  assert.equal(phase(false, 2_000), "Draining");
  state.activeRequests = 0;
  assert.equal(phase(false, 3_000), "Drained");
  assert.deepEqual(calls, ["drain"]);
});

test("a worker that cannot be told to drain is given up after the drain time, however often it is asked", () => {
  const { calls, state, view } = worker();
  state.broken = true;
  const drains = new Drains();
  const phases = new Map<number, string | undefined>();
  for (let now = 0; now <= drainMs + 1_000; now += 500) {
    drains.step(step([view(leaving)], [leaving], none, now));
    phases.set(now, phaseOf(drains, leaving));
  }
  assert.ok(calls.length > 10);
  assert.deepEqual([phases.get(0), phases.get(drainMs), phases.get(drainMs + 500)], ["Draining", "Draining", "Drained"]);
});

test("a rank that is lost or gone needs no draining, and Stop moves nothing", () => {
  const { state, view } = worker();
  const drains = new Drains();
  const stop: LeavingRank = { ...leaving, reason: "Stop" };
  drains.step(step([view(stop)], [stop], () => true, 0));
  assert.equal(phaseOf(drains, stop), "Draining");
  state.lost = true;
  drains.step(step([view(leaving)], [leaving], () => true, 0));
  assert.equal(phaseOf(drains, leaving), "Drained");
  drains.step(step([], [leaving], () => true, 0));
  assert.equal(phaseOf(drains, leaving), "Drained");
});

test("requests of an empty rank may run on for what is left of the drain time", () => {
  const { times, state, view } = worker();
  state.broken = true;
  const drains = new Drains();
  drains.step(step([view(leaving)], [leaving], () => true, 0));
  for (const now of [10_000, 40_000]) drains.step(step([view(leaving)], [leaving], none, now));
  assert.deepEqual(times, [60_000, 30_000]);
});

test("a rank that was deleted for a roll without room is told that nothing will be moved; an evicted one hands over as long as it can", () => {
  for (const [reason, want] of [
    ["Roll", 1],
    ["Evict", 0],
  ] as const) {
    const { calls, state, view } = worker();
    state.terminating = true;
    const mark: LeavingRank = { ...leaving, reason };
    const blocked = new Map([[1, "no room"]]);
    new Drains().step({ ...step([view(mark)], [mark], () => true, 0), blocked });
    assert.equal(calls.length, want, reason);
  }
});
