import assert from "node:assert/strict";
import { test } from "node:test";
import { RanksInStep } from "./ranks-in-step.ts";

const layers = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/** What is known after so many frames of rank 7, 2 ms apart, each `stride` layers after the one before. */
function after(frames: number, stride = 1): { readonly ranks: RanksInStep; readonly now: number } {
  const ranks = new RanksInStep(layers);
  for (let i = 0; i < frames; i++) ranks.came(7, layers[(i * stride) % layers.length] as number, i * 2);
  return { ranks, now: (frames - 1) * 2 };
}

test("a rank whose frames come layer by layer is due at the next one alone, until it is late", () => {
  const { ranks, now } = after(40); // the last is of layer 4
  for (const layer of layers) assert.equal(ranks.isDue(layer, now + 2), layer === 5, `layer ${layer}`);
  assert.equal(ranks.isNear(now + 2), true);
  ranks.came(7, 4, now + 1);
  assert.equal(ranks.isDue(5, now + 2), true, "a second frame of a layer changes nothing");
  assert.equal(ranks.isNear(now + 20), false);
  const { ranks: wrapped } = after(45);
  assert.equal(wrapped.isDue(1, 89), true, "after the last layer the first with experts comes");
});

test("ranks that are new, or have rows for this one in few layers, are not waited for", () => {
  for (const { ranks, now } of [after(4), after(40, 2)]) assert.equal(ranks.isNear(now + 1), false);
});

test("the own step is due at the layer after the one that it has reached", () => {
  const { ranks } = after(0);
  assert.equal(ranks.isOwnDue(1), false);
  for (const [reached, next] of [
    [9, 1],
    [4, 5],
    [0, 1], // it has no experts
  ] as const) {
    ranks.own(reached);
    const due = layers.filter((layer) => ranks.isOwnDue(layer));
    assert.deepEqual(due, [next]);
  }
  ranks.own(undefined);
  assert.equal(ranks.isOwnDue(1), false);
});

test("a step is about to end in its second half, if it is fast enough", () => {
  const isEnding = ({ ranks, now }: { ranks: RanksInStep; now: number }): boolean => ranks.isEnding(now + 1);
  assert.equal(isEnding(after(40)), false, "layer 4 of 9");
  assert.equal(isEnding(after(42)), true, "layer 6");
  assert.equal(isEnding(after(45)), false, "it has ended");
  const slow = new RanksInStep(layers);
  for (let i = 0; i < 42; i++) slow.came(7, layers[i % layers.length] as number, i * 40);
  assert.equal(slow.isEnding(41 * 40 + 1), false, "three layers of 40 ms");
});
