import assert from "node:assert/strict";
import { test } from "node:test";
import { Attempts, busyPauseMs } from "./attempts.ts";

const question = { layer: 0, expert: 3, self: 0, hosts: [1, 2], live: [0, 1, 2, 4], nowMs: 0 };
const host = (rank: number) => ({ rank, onDemand: false });

test("a busy host is passed over for another one, and waited for when there is none", () => {
  const attempts = new Attempts();
  const first = attempts.choose(question);
  assert.equal(first.onDemand, false);
  attempts.busy(first, [3], 100);
  const second = attempts.choose(question);
  assert.deepEqual(second, host(first.rank === 1 ? 2 : 1));
  attempts.busy(second, [3], 80);
  assert.deepEqual(attempts.choose(question), second, "the one that is free first");
  assert.equal(attempts.busyUntil(second.rank), 80);
  assert.deepEqual(attempts.choose({ ...question, hosts: [first.rank], nowMs: 100 }), first);
});

test("a host that is busy again and again is neither asked as a host nor to load: somebody else loads", () => {
  const attempts = new Attempts();
  for (let i = 0; i < 3; i++) {
    assert.deepEqual(attempts.choose({ ...question, hosts: [1] }), host(1));
    attempts.busy(host(1), [3], 100);
  }
  const { rank, onDemand } = attempts.choose({ ...question, hosts: [1] });
  assert.ok(onDemand && rank !== 1, `rank ${rank}`);
  attempts.forget();
  assert.deepEqual(attempts.choose({ ...question, hosts: [1] }), host(1));
});

test("a host that lacks the expert loads it before a stranger does, and this rank itself does so last", () => {
  const attempts = new Attempts();
  attempts.fail(host(1), [3]);
  assert.deepEqual(attempts.choose({ ...question, hosts: [1] }), { rank: 1, onDemand: true });
  for (const rank of [1, 2, 4]) attempts.fail({ rank, onDemand: true }, [3]);
  assert.deepEqual(attempts.choose({ ...question, hosts: [1] }), { rank: 0, onDemand: true });
  assert.deepEqual(attempts.choose({ ...question, expert: 5, hosts: [1] }), host(1), "of another expert nothing is known");
});

test("the pause is what the host asks for, spread over senders, with a bound", () => {
  assert.equal(busyPauseMs(200, 0), 200);
  assert.equal(busyPauseMs(200, 1), 300);
  assert.equal(busyPauseMs(0, 0), 50);
  assert.equal(busyPauseMs(3_600_000, 0), 1_000);
});
