// The bounds of what a gateway takes in at once, and that places and memory come back however a request ends.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createMetrics } from "../observe/metrics.ts";
import { Admission, type Admitted, promptLogprobsMax } from "./admission.ts";
import { rejectReason } from "./problem.ts";

const admission = (max: number) => new Admission(max, createMetrics({ process: "gateway", version: "0" }));
function entered(found: ReturnType<Admission["enter"]>): Admitted {
  assert.ok("leave" in found);
  return found;
}

test("prompts' log-probabilities of all requests have a bound, others come in beside them, and what leaves makes room once", () => {
  const gate = admission(10);
  const [first] = [entered(gate.enter(promptLogprobsMax)), entered(gate.enter(promptLogprobsMax))];
  const refused = gate.enter(1);
  assert.ok("problem" in refused);
  assert.deepEqual([refused.problem.status, refused.problem.code, rejectReason(refused.problem)], [429, "queue_full", "queue_full"]);
  assert.match(refused.problem.message, /log-probabilities of prompts/);
  entered(gate.enter(0)).leave();
  first.leave();
  first.leave();
  entered(gate.enter(promptLogprobsMax));
  assert.ok("problem" in gate.enter(1), "a place that was left twice is one place");
});

test("the largest request comes in wherever nothing else is told, and no order of requests goes beyond the bounds", () => {
  const costs = fc.array(fc.record({ told: fc.nat(promptLogprobsMax), leave: fc.boolean() }), { maxLength: 100 });
  fc.assert(
    fc.property(costs, (requests) => {
      const gate = admission(5);
      const inside: { place: Admitted; told: number }[] = [];
      for (const { told, leave } of requests) {
        if (leave) inside.shift()?.place.leave();
        const found = gate.enter(told);
        if ("leave" in found) inside.push({ place: found, told });
        assert.ok(inside.length <= 5 && gate.inside === inside.length);
        assert.ok(inside.reduce((sum, one) => sum + one.told, 0) <= 2 * promptLogprobsMax);
      }
      for (const { place } of inside) place.leave();
      entered(gate.enter(promptLogprobsMax));
    }),
    { numRuns: 100 },
  );
});
