// The fault behind an error, and pauses that spread those who wait.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import { classify, type Fault, pauseMs } from "./patience.ts";

test("each error has one whose fault it is; an unknown one is the worker's", () => {
  for (const [code, want] of new Map<string, Fault>([
    ["InvalidRequest", "caller"],
    ["ContextOverflow", "caller"],
    ["Busy", "busy"],
    ["QueueFull", "busy"],
    ["ExpertUnavailable", "expert"],
    ["DeadlineExceeded", "deadline"],
    ["Silent", "worker"],
    ["Unavailable", "worker"],
    ["Cancelled", "worker"], // what a worker that is shut down by force shows; a client that left is told by its signal
    ["Never heard of", "worker"],
  ]))
    assert.equal(classify(new AppError("", { code })), want, code);
});

test("pauses grow to a limit, and half of each is chance", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 50].map((before) => pauseMs(before, 1)),
    [100, 200, 400, 800, 1_600, 2_000, 2_000],
  );
  fc.assert(
    fc.property(fc.nat(1_000), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (before, random) => {
      const most = pauseMs(before, 1);
      const pause = pauseMs(before, random);
      assert.ok(pause >= most / 2 && pause <= most);
    }),
  );
  assert.notEqual(pauseMs(3, 0.1), pauseMs(3, 0.2));
});
