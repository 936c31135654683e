// The number of ranks of a job that start together, and when there is a group for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import { conditions, fitting, job, observed, over, rankPod, says } from "../../../test/kit/training/training-decisions.ts";
import { decide } from "./decide.ts";
import type { Observed } from "./observed.ts";
import { membersOf } from "./spawn.ts";

const eight = { replicas: 8, elasticity: { minReplicas: 2, maxReplicas: 8 } };
const least = (leastRanks?: number): MoETrainingJobStatus => ({
  check: { ...fitting, fits: { message: "it fits", sizes: { alone: false, ...(leastRanks !== undefined && { leastRanks }) } } },
});
const members = (given: Partial<Observed>): number => membersOf(observed({ job: job(eight), ...given }), "Volcano");
const local = { recipe: "fedavg:5", data: ["pvc://data/b"] };

test("those ranks start together that can train: all of them until their memory is known, never more than are wanted", () => {
  assert.equal(members({}), 8, "nothing is known");
  assert.equal(members({ status: least() }), 8);
  assert.equal(members({ status: least(5) }), 5);
  assert.equal(members({ status: least(1) }), 2, "elasticity.minReplicas");
  assert.equal(members({ status: least(5), job: job({ ...eight, replicas: 3 }) }), 3);
  assert.equal(members({ status: least(2), job: job({ ...eight, local }) }), 4, "in each of two worlds");
  assert.equal(members({ job: job({ ...eight, model: { uri: "pvc://m/m", init: "Random" }, spawn: { step: 5, replicasBefore: 3 } }) }), 3);
});

const running = (count: number, change: Parameters<typeof rankPod>[1] = {}) => Array.from({ length: count }, (_, i) => rankPod(i, change));

test("ranks that run outside of the group are there already, so that the replacement of one waits for nobody", () => {
  const status = least(5);
  assert.equal(members({ status, pods: running(3) }), 2);
  assert.equal(members({ status, pods: running(7) }), 1, "from before there was a group");
  assert.equal(members({ status, pods: running(7, { gang: "Volcano" }) }), 5);
  assert.equal(members({ status, pods: running(7, { gang: "Coscheduling" }) }), 1, "members of another scheduler's");
  assert.equal(members({ status, pods: running(7, { node: "" }) }), 5, "what has no node is not there");
  assert.equal(members({ status, pods: running(7, { hash: "old" }) }), 5, "nor is what is replaced");
  assert.equal(members({ status, pods: running(7, { deleting: true }) }), 5);
  assert.equal(members({ status, pods: running(7, { over: over(undefined) }) }), 5);
  assert.equal(members({ status, job: job({ ...eight, replicas: 5 }), pods: [rankPod(5), rankPod(6)] }), 5, "nor what is not wanted");
});

test("there is a group from before the first pod is made to the end of the last", () => {
  const gathers = (given: Partial<Observed>) => decide(observed({ job: job(eight), ...given })).gathers;
  const refused = [{ reason: "GangUnavailable", message: "why" }];
  assert.equal(gathers({ status: { check: undefined } }), false, "it is not known whether the job fits");
  assert.equal(gathers({}), true, "pods are made");
  assert.equal(gathers({ pods: running(8), reports: says() }), true);
  assert.equal(gathers({ pods: [rankPod(0, { over: over(undefined, { reason: "OOMKilled" }) })] }), true, "another is to come");
  assert.equal(gathers({ templateProblems: refused }), false);
  assert.equal(gathers({ templateProblems: refused, pods: running(8) }), true, "pods of the spec as it was go on");
  assert.equal(gathers({ rival: "other", pods: running(8) }), false);
  assert.equal(gathers({ job: job({ ...eight, suspend: true }), pods: running(8) }), false);
  const done = decide(observed({ job: job(eight), pods: running(8, { over: over({ outcome: "Complete" }) }) }));
  assert.deepEqual([conditions(done.status).Complete, done.gathers], ["True AllStepsDone", false]);
  assert.equal(gathers({ status: done.status }), false);
});
