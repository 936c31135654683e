// Failures that are detected by silence, and silences that are none.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FailureDetector, HeartbeatSuppression, heartbeatLimits, MassFailureGuard, suppressMsMax } from "./failure-detector.ts";

const limits = heartbeatLimits(1_000);
const { lookMs, timeoutMs, connectMs } = limits;

function listening(guard?: MassFailureGuard) {
  const detector = new FailureDetector(limits, 0, guard);
  let now = 0;
  const pass = (ms: number, received?: number): boolean => {
    for (const end = now + ms; now < end; ) {
      now += lookMs;
      if (received !== undefined) detector.received(received);
      detector.look(now);
    }
    return detector.hasFailed;
  };
  /** Milliseconds until it counts as failed. */
  const untilFailed = (): number => {
    const from = now;
    while (!pass(lookMs)) if (now - from > 100_000) return Number.POSITIVE_INFINITY;
    return now - from;
  };
  return { detector, pass, untilFailed, now: () => now };
}

test("a peer has failed once it was silent for the timeout, and before its first word for the time of connecting", () => {
  const { detector, pass, untilFailed, now } = listening();
  assert.equal(untilFailed(), connectMs);
  detector.heard();
  assert.equal(pass(lookMs), false);
  detector.heard();
  assert.equal(untilFailed(), timeoutMs);
  detector.connect(now());
  assert.equal(untilFailed(), connectMs, "another connection");
  detector.connect(now());
  detector.heard();
  detector.setTimeout(8_000);
  assert.equal(untilFailed(), 8_000, "it announced other heartbeats");
});

test("while the listener stood still it heard nobody: a late look counts for two", () => {
  const detector = new FailureDetector(limits, 1_000);
  assert.deepEqual(
    [1_500, 2_000].map((at) => detector.look(at)),
    [500, 1_000],
  );
  detector.heard();
  assert.deepEqual(
    [2_300, 60_000].map((at) => detector.look(at)),
    [300, 1_300],
  );
});

test("a connection that was heard is made anew, one that does not stand yet is given time", () => {
  const { detector } = listening();
  const ended = [true, false, false, false, false, true, false].map((heard) => {
    if (heard) detector.heard();
    return detector.ended();
  });
  assert.deepEqual(ended, [true, false, false, true, false, true, false]);
});

test("a peer that was only slow has more time for a while, up to a bound; one that was gone has not", () => {
  const { detector, untilFailed, now, pass } = listening();
  const factorAfter = (awayMs: number): number => {
    detector.recovered(awayMs, now());
    detector.heard();
    return untilFailed() / timeoutMs;
  };
  assert.deepEqual([12_000, 700, 700, 700].map(factorAfter), [1, 2, 4, 4]);
  pass(60_000);
  detector.heard();
  assert.equal(untilFailed(), timeoutMs);
});

test("while heartbeats are suppressed bytes on the connection show life, until a heartbeat is due", () => {
  const { detector, pass } = listening();
  detector.heard();
  assert.equal(pass(timeoutMs, 7), true, "bytes alone are none without suppression");
  detector.heard();
  detector.suppress(10_000);
  for (let bytes = 8; bytes < 8 + 10_000 / lookMs; bytes++) assert.equal(pass(lookMs, bytes), false);
  for (let bytes = 50; bytes < 55; bytes++) assert.equal(pass(lookMs, bytes), false);
  assert.equal(pass(lookMs, 60), true, "the heartbeat that was due did not come");
  detector.heard();
  assert.equal(pass(timeoutMs - lookMs, 60), true, "no bytes came for longer");
  assert.equal(pass(lookMs, 3), false, "a new count of bytes is a sign of life too");
});

test("the guard: where most peers are quiet none has failed at once, and each has after longer", () => {
  const fleet = (size: number, silent: number) => {
    const guard = new MassFailureGuard();
    const peers = Array.from({ length: size }, () => listening(guard));
    const pass = (ms: number): number => {
      for (let passed = 0; passed < ms; passed += lookMs) {
        for (const [i, { detector, pass }] of peers.entries()) {
          if (i >= silent) detector.heard();
          pass(lookMs);
        }
      }
      return peers.filter(({ detector }) => detector.hasFailed).length;
    };
    for (const { detector } of peers) detector.heard();
    return { guard, peers, pass };
  };
  const few = fleet(100, 50);
  assert.equal(few.pass(timeoutMs), 50, "those of some nodes");
  const most = fleet(100, 60);
  assert.equal(most.pass(2 * timeoutMs), 0);
  assert.equal(most.guard.isDisrupted, true);
  assert.equal(most.pass(3 * timeoutMs), 60, "not for ever");
  for (const { detector } of most.peers.slice(60)) detector.disconnect();
  assert.equal(most.guard.isDisrupted, true, "60 of 60");
  for (const { detector } of most.peers.slice(0, 59)) detector.disconnect();
  assert.equal(most.guard.isDisrupted, false);
  const small = fleet(23, 23);
  assert.equal(small.pass(timeoutMs), 23, "of a few peers most may be on one node");
});

test("a heartbeat is left out while that is allowed, its state is the last one's, and that is young", () => {
  const suppression = new HeartbeatSuppression();
  const skips = (state: string, at: number, isAnswer = false) => suppression.canSkip(state, at, isAnswer);
  assert.equal(skips("a", 0), false, "nothing was sent");
  suppression.sent("a", 0);
  assert.equal(skips("a", 1), false, "nothing was allowed");
  suppression.allow(1_000);
  assert.deepEqual([skips("a", 999), skips("a", 1_000), skips("b", 1)], [true, false, false]);
  assert.deepEqual([skips("a", 499, true), skips("a", 500, true)], [true, false], "an answer also tells the clock");
  suppression.allow(4_000_000_000);
  assert.deepEqual([skips("a", suppressMsMax - 1), skips("a", suppressMsMax)], [true, false]);
  suppression.allow(0);
  assert.equal(skips("a", 1), false);
});
