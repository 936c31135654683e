// The protocol as a pure machine: how a plan ends when one rank cannot follow.
import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../../planner/random.ts";
import { PlanRun } from "./protocol.ts";
import { type Action, defaultLimits, type Event, type LayerTask } from "./protocol-types.ts";

/** One layer that rank 0 receives and others give up; bootIds are their numbers. */
function oneLayer(ranks: readonly number[], givers: readonly number[] = [1]): PlanRun {
  const placement = { layer: 0, epoch: 2, hosts: [[0]], weights: [[1000]] };
  return new PlanRun({
    epoch: 2,
    tasks: [{ placement, incoming: new Map([[0, 100]]), outgoing: new Map(givers.map((rank) => [rank, 100])), committedBefore: false }],
    members: new Map(ranks.map((rank) => [rank, String(rank)])),
    budget: new Map(),
    used: new Map(),
    now: 0,
    limits: defaultLimits,
  });
}

/** Answers every action well, but for rank 2, whose Prepare always fails, until the plan ends or `untilMs` have passed. */
function carryOut(run: PlanRun, untilMs: number): number {
  let now = 0;
  const queue: Event[] = [{ type: "start" }];
  while (!run.outcome && now < untilMs) {
    const events = queue.splice(0);
    for (const event of events) for (const action of run.on(event)) queue.push(...answers(action));
    now += 250;
    queue.push({ type: "tick", now });
  }
  return now;
}

function answers(action: Action): Event[] {
  const { type, rank, layers } = action;
  const bootId = String(rank);
  if (type === "prepare" && rank === 2) return layers.map((layer) => ({ type: "failed", rank, bootId, layer, message: "disk" }));
  if (type === "prepare") return layers.map((layer) => ({ type: "ready", rank, bootId, layer, bytes: 0 }));
  if (type === "commit") return [{ type: "committed", rank, bootId, layers, asked: layers }];
  if (type === "release") return [{ type: "released", rank, bootId, layers, asked: layers, drainOnly: action.drainOnly }];
  return [];
}

test("a plan ends as committed, and names who is behind, when a rank cannot prepare what the others have committed", () => {
  const run = oneLayer([0, 1, 2]);
  const took = carryOut(run, 10 * defaultLimits.releaseMs);
  assert.deepEqual(run.outcome, {
    result: "committed",
    aborted: [],
    unreleased: [{ layer: 0, reason: "ranks 2 have not committed it" }],
  });
  assert.ok(took >= defaultLimits.releaseMs && took <= defaultLimits.releaseMs + 1_000, `${took} ms`);
});

test("a layer whose receiver is not there keeps its parent, as when it is lost on the way", () => {
  const run = oneLayer([1, 2]);
  carryOut(run, 1_000);
  assert.deepEqual(run.outcome, { result: "aborted", aborted: [{ layer: 0, reason: "rank 0 is not there to receive" }] });
});

test("a plan that everybody follows ends at once and names nobody", () => {
  const run = oneLayer([0, 1]);
  assert.ok(carryOut(run, 10_000) < 5_000);
  assert.deepEqual(run.outcome, { result: "committed", aborted: [], unreleased: [] });
});

test("a rank that gives up expert replicas frees them only when the frames of every other rank are answered, of those that give up some too", () => {
  const run = oneLayer([0, 1, 3], [1, 3]);
  const calls: string[] = [];
  let answered = false;
  const queue: Event[] = [{ type: "start" }];
  for (let now = 0; !run.outcome && now < 10_000; now += 250) {
    for (const action of queue.splice(0).flatMap((event) => run.on(event))) {
      const { type, rank } = action;
      if (type === "release") calls.push(`${action.drainOnly ? "drain" : "free"} ${rank}`);
      // Rank 3 has frames under way for a while.
      if (type !== "release" || rank !== 3 || answered) queue.push(...answers(action));
      else queue.push({ type: "released", rank, bootId: "3", layers: [], asked: [0], drainOnly: action.drainOnly });
    }
    if (now === 2_000) {
      assert.ok(calls.includes("drain 1") && !calls.includes("free 1"), calls.join());
      answered = true;
    }
    queue.push({ type: "tick", now });
  }
  assert.deepEqual(run.outcome, { result: "committed", aborted: [], unreleased: [] });
  for (const call of ["free 0", "free 1", "free 3"]) assert.ok(calls.includes(call), call);
});

test("a layer that is slow to drain at a rank does not hold up the other layers of that rank", () => {
  const layers = [0, 1];
  const run = new PlanRun({
    ...{
      epoch: 2,
      members: new Map([
        [0, "0"],
        [1, "1"],
      ]),
      budget: new Map(),
      used: new Map(),
      now: 0,
      limits: defaultLimits,
    },
    // Rank 1 gives up nothing of layer 0 and has frames under way; both ranks give up expert replicas of layer 1.
    tasks: layers.map((layer) => ({
      placement: { layer, epoch: 2, hosts: [[0]], weights: [[1000]] },
      ...{
        incoming: new Map([[0, 100]]),
        outgoing: new Map(
          layer === 0
            ? [[0, 100]]
            : [
                [0, 100],
                [1, 100],
              ],
        ),
        committedBefore: false,
      },
    })),
  });
  const queue: Event[] = [{ type: "start" }];
  for (let now = 0; !run.freeLayers().includes(1) && now < 5_000; now += 250) {
    for (const action of queue.splice(0).flatMap((event) => run.on(event))) {
      const left = action.type === "release" && action.rank === 1 ? action.layers.filter((layer) => layer !== 0) : action.layers;
      queue.push(
        ...answers({ ...action, layers: left }).map((event) => (event.type === "released" ? { ...event, asked: action.layers } : event)),
      );
    }
    queue.push({ type: "tick", now });
  }
  assert.deepEqual(run.freeLayers(), [1]);
});

test("a rank that comes up again between drain and free is waited for anew", () => {
  const run = oneLayer([0, 1, 3], [1, 3]);
  const events: Event[] = [{ type: "start" }];
  for (let now = 0; now < 2_000; now += 250) {
    for (const action of events.splice(0).flatMap((event) => run.on(event))) {
      // Rank 1 does not answer its Release, so that the layer stays open.
      if (action.type !== "release" || action.drainOnly || action.rank !== 1) events.push(...answers(action));
    }
    events.push({ type: "tick", now });
  }
  const asked = run.on({ type: "joined", rank: 3, bootId: "3b" });
  assert.deepEqual(asked, [{ type: "prepare", rank: 3, layers: [0], deadline: defaultLimits.prepareMs }]);
  assert.equal(run.phase, "Committing", "a source of unknown state blocks FREE");
  assert.equal(run.outcome, undefined);
});

test("a rank that comes while a plan is under way frees nothing before the frames of all others are answered", () => {
  const run = oneLayer([0, 1], []);
  const toThree: Action[] = [];
  const events: Event[] = [{ type: "start" }, { type: "joined", rank: 3, bootId: "3" }];
  const drive = (drains: boolean, fromMs: number): void => {
    for (let now = fromMs; now < fromMs + 5_000; now += 250) {
      for (const action of events.splice(0).flatMap((event) => run.on(event))) {
        if (action.rank === 3) toThree.push(action);
        const pending = action.type === "release" && action.rank === 1 && !drains;
        const answered = answers(pending ? { ...action, layers: [] } : action);
        events.push(...answered.map((event) => (event.type === "released" ? { ...event, asked: action.layers } : event)));
      }
      events.push({ type: "tick", now });
    }
  };
  const frees = (): boolean => toThree.some((action) => action.type === "release" && !action.drainOnly);
  drive(false, 0);
  assert.ok(toThree.some(({ type }) => type === "commit") && !frees(), JSON.stringify(toThree));
  drive(true, 5_000);
  assert.ok(frees(), "and then it does");
});

function planOf(layers: number, ranks: number, inFlight: number): PlanRun {
  const tasks = Array.from({ length: layers }, (_, layer): LayerTask => {
    const incoming = new Map([layer, layer + 3].map((rank) => [rank % ranks, 1]));
    const outgoing = new Map([[(layer + 1) % ranks, 1]]);
    return { placement: { layer, epoch: 2, hosts: [[0]], weights: [[1000]] }, incoming, outgoing, committedBefore: layer % 5 === 4 };
  });
  const members = new Map(Array.from({ length: ranks }, (_, rank) => [rank, `${rank}`]));
  const limits = { ...defaultLimits, layersInFlight: inFlight };
  return new PlanRun({ epoch: 2, tasks, members, budget: new Map(), used: new Map(), now: 0, limits });
}

/** The answers to an action; `fate` below 0.1: none or a failure comes of it. */
function answersTo({ type, rank, layers, ...rest }: Action, bootId: string, fate: number): Event[] {
  const asked = layers;
  if (type === "prepare" && fate < 0.1) return layers.map((layer) => ({ type: "failed", rank, bootId, layer, message: "disk" }));
  if (type === "prepare") return layers.map((layer) => ({ type: "ready", rank, bootId, layer, bytes: 1 }));
  if (type === "abort") return [];
  const drainOnly = "drainOnly" in rest && rest.drainOnly;
  if (fate < 0.05) return [{ type: "unanswered", rank, call: type === "commit" ? "commit" : drainOnly ? "drain" : "release" }];
  const some = fate < 0.1 ? layers.slice(1) : layers;
  if (type === "commit") return [{ type: "committed", rank, bootId, layers: some, asked }];
  return [{ type: "released", rank, bootId, layers: some, asked, drainOnly }];
}

test("after any event a look at all ranks finds no call that is due, whoever answers, fails, joins or is lost", () => {
  let looks = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = seeded(seed);
    const ranks = 3 + Math.floor(random.next() * 9);
    const run = planOf(1 + Math.floor(random.next() * 12), ranks, 1 + Math.floor(random.next() * 8));
    const queue: Event[] = [{ type: "start" }];
    let now = 0;
    for (let step = 0; step < 4_000 && !run.outcome; step++) {
      const chance = random.next();
      const rank = Math.floor(random.next() * ranks);
      if (chance < 0.01) queue.push({ type: "lost", rank });
      if (chance > 0.99) queue.push({ type: "joined", rank, bootId: `${rank} after ${step}` });
      const late = queue.length === 0 || chance < 0.05;
      if (late) now += 100;
      const [event] = late ? [{ type: "tick", now } as const] : queue.splice(Math.floor(random.next() * queue.length), 1);
      const actions = run.on(event as Event);
      // The same time once more: whatever is due is called, and a layer that is taken in meanwhile brings its own.
      const more = run.on({ type: "tick", now });
      if (!more.some(({ type }) => type === "prepare")) assert.deepEqual(more, [], `seed ${seed}, step ${step}, ${JSON.stringify(event)}`);
      looks++;
      for (const action of [...actions, ...more]) queue.push(...answersTo(action, run.bootOf(action.rank) ?? "", random.next()));
    }
    assert.ok(run.outcome, `seed ${seed} ends`);
  }
  assert.ok(looks > 3_000, `${looks}`);
});

test("four times as many ranks make four times as many events, and hardly more work for each", () => {
  const measured = [64, 256].map((ranks) => {
    const run = planOf(29, ranks, 8);
    const queue: Event[] = [{ type: "start" }];
    let events = 0;
    const before = process.cpuUsage();
    for (let event = queue.pop(); event; event = queue.pop(), events++) {
      for (const action of run.on(event)) queue.push(...answersTo(action, `${action.rank}`, 1));
    }
    const { user, system } = process.cpuUsage(before);
    assert.deepEqual(run.outcome, { result: "committed", aborted: [], unreleased: [] });
    return { events, microsPerEvent: (user + system) / events };
  });
  const [few, many] = measured as [(typeof measured)[number], (typeof measured)[number]];
  assert.ok(many.events < 4.5 * few.events, `${few.events} -> ${many.events} events`);
  assert.ok(many.microsPerEvent < 3 * few.microsPerEvent, `${few.microsPerEvent} -> ${many.microsPerEvent} us an event`);
});
