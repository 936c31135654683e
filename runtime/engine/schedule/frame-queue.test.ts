// Whatever comes and is taken, every pair is computed once, decode frames first, in portions of one layer that are no larger than asked.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Phase } from "../../../crds/telemetry.ts";
import { FrameQueue, type Share } from "./frame-queue.ts";

interface Frame {
  readonly layer: number;
  readonly phase: Phase;
  readonly order: readonly number[];
}
const frame = (phase: Phase, layer: number, pairs: number): Frame => ({ phase, layer, order: Array.from({ length: pairs }, (_, i) => i) });
const arbitrary = fc.tuple(fc.constantFrom<Phase>("decode", "prefill"), fc.nat({ max: 2 }), fc.integer({ min: 1, max: 40 }));

test("every pair is taken once, and a frame's last share says so", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(arbitrary, fc.constant("take" as const)), { maxLength: 40 }),
      fc.integer({ min: 1, max: 20 }),
      (ops, max) => {
        const queue = new FrameQueue<Frame>();
        const taken = new Map<Frame, number[]>();
        const ended = new Set<Frame>();
        const frames: Frame[] = [];
        const take = (): Share<Frame>[] => {
          const decode = queue.decodeWaits;
          const shares = decode ? queue.nextDecode() : queue.nextPrefill(max);
          assert.ok(new Set(shares.map(({ frame: { layer, phase } }) => `${layer}.${phase}`)).size <= 1, "of one layer and phase");
          if (!decode) assert.ok(shares.reduce((sum, { pairs }) => sum + pairs.length, 0) <= max);
          for (const { frame: of, pairs, last } of shares) {
            assert.equal(ended.has(of), false);
            taken.set(of, [...(taken.get(of) ?? []), ...pairs]);
            if (last) ended.add(of);
          }
          return shares;
        };
        for (const op of ops) {
          if (op === "take") take();
          else {
            const next = frame(...op);
            frames.push(next);
            queue.push(next, 0);
          }
        }
        while (!queue.empty) assert.ok(take().length > 0);
        assert.equal(ended.size, frames.length);
        for (const each of frames) assert.deepEqual(taken.get(each), each.order);
      },
    ),
  );
});

test("frames of one layer go together, up to a bound, and the layer that has waited longest is first", () => {
  const queue = new FrameQueue<Frame>();
  const [a, b, c] = [frame("decode", 1, 2), frame("decode", 0, 1), frame("decode", 1, 3)];
  for (const each of [a, b, c]) queue.push(each, 0);
  assert.deepEqual(
    queue.nextDecode().map((share) => share.frame),
    [a, c],
  );
  assert.deepEqual(
    queue.nextDecode().map((share) => share.frame),
    [b],
  );
  for (let i = 0; i < 3; i++) queue.push(frame("decode", 0, 300), 0);
  assert.equal(queue.nextDecode().length, 1, "not more than 512 pairs at once");
});

test("frames of a layer that waits for more let the next layer go first", () => {
  const queue = new FrameQueue<Frame>();
  const [a, b] = [frame("decode", 1, 2), frame("decode", 0, 1)];
  for (const [since, each] of [a, b].entries()) queue.push(each, since);
  const asked: number[][] = [];
  const shares = queue.nextDecode((...of) => asked.push(of) === 1);
  assert.deepEqual(
    [shares.map((share) => share.frame), asked],
    [
      [b],
      [
        [1, 0],
        [0, 1],
      ],
    ],
  );
  assert.deepEqual([queue.nextDecode(() => true), queue.decodeWaits], [[], true]);
});

test("a frame that failed between two portions is gone", () => {
  const queue = new FrameQueue<Frame>();
  const [bad, good] = [frame("prefill", 0, 10), frame("prefill", 1, 1)];
  for (const each of [bad, good]) queue.push(each, 0);
  queue.nextPrefill(4);
  queue.drop(new Set([bad]));
  assert.deepEqual(queue.nextPrefill(4), [{ frame: good, pairs: [0], last: true }]);
  assert.ok(queue.empty);
});
