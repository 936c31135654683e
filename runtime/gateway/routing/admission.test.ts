// The bounds of what a gateway takes in at once, and that places and memory come back however a request ends.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createMetrics } from "../../observe/runtime-metrics.ts";
import { rejectReason } from "../problem.ts";
import { Admission, type Admitted, type Entering, heldMax, promptLogprobsMax, waitingBytesMax } from "./admission.ts";

const admission = (max: number) => new Admission(max, createMetrics({ process: "gateway", version: "0" }));
const cost = (promptLogprobs: number, more: Partial<Entering> = {}): Entering => ({
  promptLogprobs,
  bytes: 0,
  holder: "",
  holds: false,
  ...more,
});
function entered(found: ReturnType<Admission["enter"]>): Admitted {
  assert.ok("leave" in found);
  return found;
}

test("prompts' log-probabilities of all requests have a bound, others come in beside them, and what leaves makes room once", () => {
  const gate = admission(10);
  const [first] = [entered(gate.enter(cost(promptLogprobsMax))), entered(gate.enter(cost(promptLogprobsMax)))];
  const refused = gate.enter(cost(1));
  assert.ok("problem" in refused);
  assert.deepEqual([refused.problem.status, refused.problem.code, rejectReason(refused.problem)], [429, "queue_full", "queue_full"]);
  assert.match(refused.problem.message, /log-probabilities of prompts/);
  entered(gate.enter(cost(0))).leave();
  first.leave();
  first.leave();
  entered(gate.enter(cost(promptLogprobsMax)));
  assert.ok("problem" in gate.enter(cost(1)), "a place that was left twice is one place");
});

test("the largest request comes in wherever nothing else is told, and no order of requests goes beyond the bounds", () => {
  const costs = fc.array(fc.record({ told: fc.nat(promptLogprobsMax), leave: fc.boolean() }), { maxLength: 100 });
  fc.assert(
    fc.property(costs, (requests) => {
      const gate = admission(5);
      const inside: { place: Admitted; told: number }[] = [];
      for (const { told, leave } of requests) {
        if (leave) inside.shift()?.place.leave();
        const found = gate.enter(cost(told));
        if ("leave" in found) inside.push({ place: found, told });
        assert.ok(inside.length <= 5 && gate.inside === inside.length);
        assert.ok(inside.reduce((sum, one) => sum + one.told, 0) <= 2 * promptLogprobsMax);
      }
      for (const { place } of inside) place.leave();
      entered(gate.enter(cost(promptLogprobsMax)));
    }),
    { numRuns: 100 },
  );
});

test("what is held for ranks to come has bounds of its own, in number and bytes, and each leaves or starts out of them", () => {
  const held = (bytes: number) => cost(0, { bytes, holds: true });
  const many = admission(10 * heldMax);
  const all = Array.from({ length: heldMax }, () => entered(many.enter(held(1))));
  const refused = many.enter(held(1));
  assert.ok("problem" in refused);
  assert.deepEqual([refused.problem.status, refused.problem.retryAfterSeconds, rejectReason(refused.problem)], [503, 10, "no_worker"]);
  assert.match(refused.problem.message, /scaled to zero, and this gateway holds as many requests/);
  entered(many.enter(cost(0))).leave(); // the bounds are for what is held
  all[0]?.started();
  entered(many.enter(held(1)));
});

test("the bytes of what waits have a bound, held or not, until a rank has it; a client has half, and large ones leave room to small ones", () => {
  const large = waitingBytesMax / 8;
  for (const [holds, status] of [
    [true, 503],
    [false, 429],
  ] as const) {
    const gate = admission(20);
    const of = (holder: string, bytes = large) => gate.enter(cost(0, { bytes, holder, holds }));
    const refused = (holder: string, bytes = large): void => {
      const found = of(holder, bytes);
      assert.equal("problem" in found && found.problem.status, status);
    };
    const first = Array.from({ length: 4 }, () => entered(of("a")));
    refused("a");
    const others = Array.from({ length: 3 }, () => entered(of("b")));
    refused("c");
    entered(of("a", 1)).leave();
    first[0]?.leave();
    first[0]?.leave();
    entered(of("a"));
    refused("c");
    others[0]?.started();
    entered(of("c"));
  }
});

test("it is idle since the last of several requests left, and says so when one comes", () => {
  let now = 1_000;
  const gate = new Admission(10, createMetrics({ process: "gateway", version: "0" }), () => now);
  now += 500;
  assert.equal(gate.idleMs, 500);
  let come = 0;
  const stop = gate.onEnter(() => void come++);
  const places = [entered(gate.enter(cost(0))), entered(gate.enter(cost(0)))];
  places[0]?.leave();
  now += 500;
  assert.deepEqual([gate.idleMs, come], [0, 2]);
  places[1]?.leave();
  now += 70;
  places[1]?.leave();
  assert.equal(gate.idleMs, 70, "a place that is left again is no request");
  stop();
  entered(gate.enter(cost(0)));
  assert.equal(come, 2);
});
