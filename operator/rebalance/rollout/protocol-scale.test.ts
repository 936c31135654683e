// The protocol with many ranks: it looks at those that an event can matter to, and misses none that a look at all would find; what it
// does for one event does not grow with the number of ranks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../../planner/random.ts";
import { PlanRun } from "./protocol.ts";
import { type Action, defaultLimits, type Event, type LayerTask } from "./protocol-types.ts";

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
