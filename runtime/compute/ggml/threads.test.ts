// More threads while they gain, one while they do not: shown on a clock and on machines that are given.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type GraphCost, GraphCosts, ThreadGovernor } from "./threads.ts";

/** Runs a graph of `alone` ms so often on a machine where more threads take `ratio` of that; answers the threads of each run. */
function play(governor: ThreadGovernor, clock: { ms: number }, cost: GraphCost, alone: number, ratio: number, runs: number): number[] {
  return Array.from({ length: runs }, () => {
    const threads = governor.choose(cost);
    const ms = threads === 1 ? alone : alone * ratio;
    clock.ms += ms;
    governor.took(cost, threads, ms);
    return threads;
  });
}

function start(most = 2) {
  const clock = { ms: 0 };
  return { clock, governor: new ThreadGovernor(most, () => clock.ms), cost: { alone: 0, runs: 0 } };
}

test("a graph runs on one thread three times, and on all from then on while that gains", () => {
  const { clock, governor, cost } = start();
  assert.deepEqual(play(governor, clock, cost, 1, 0.55, 200), [1, 1, 1, ...new Array<number>(197).fill(2)]);
});

test("where more threads gain nothing one is used, and the others are tried again ever more rarely", () => {
  const { clock, governor, cost } = start();
  const threads = play(governor, clock, cost, 1, 1.5, 20_000);
  const tried = threads.filter((n) => n === 2).length;
  assert.ok(tried >= 20 && tried < 500, `${tried} of 20,000 runs on two threads`);
  // The neighbour leaves: within the longest rest two threads are back, and stay.
  play(governor, clock, cost, 1, 0.55, 64_100);
  assert.ok(play(governor, clock, cost, 1, 0.55, 100).every((n) => n === 2));
});

test("a single run that stands still ends the attempt at once", () => {
  const { clock, governor, cost } = start();
  play(governor, clock, cost, 0.1, 0.55, 10);
  governor.took(cost, 2, 50);
  assert.equal(governor.choose(cost), 1);
});

test("tiny graphs, and a machine of one processor, stay on one thread", () => {
  const { clock, governor, cost } = start();
  assert.ok(play(governor, clock, cost, 0.01, 0.5, 50).every((n) => n === 1));
  const one = start(1);
  assert.ok(play(one.governor, one.clock, one.cost, 5, 0.5, 50).every((n) => n === 1));
});

test("graphs of as many steps on about as large values are known by one another's runs, others are not", () => {
  const costs = new GraphCosts();
  const { clock, governor } = start();
  const layers = [1_000_000, 1_050_000, 980_000, 1_020_000, 1_000_000];
  const threads = layers.flatMap((bytes) => play(governor, clock, costs.of(12, bytes), 1, 0.55, 1));
  assert.deepEqual(threads, [1, 1, 1, 2, 2]);
  assert.equal(governor.choose(costs.of(12, 2_000_000)), 1);
  assert.equal(governor.choose(costs.of(3, 1_000_000)), 1);
});
