// The check of a job before its pods: each case by itself, and lives of a job under changes, ends and crashes between any two writes, in
// which no pod that trains is ever made of a spec that was not found to fit.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import {
  actionText,
  checkView,
  conditions,
  fitting,
  job,
  observed,
  over,
  pod,
  rankPod,
  says,
  start,
  testDecisions,
} from "../../../test/kit/training/training-decisions.ts";
import { checkFailuresMax } from "./check.ts";
import { type Decision, decide } from "./decide.ts";
import type { PodView } from "./pod-view.ts";

const fresh = { check: undefined };
const fits = over({ outcome: "Fits", message: "1 rank needs 0.2 GB", sizes: { leastRanks: 2, alone: true } });
const refuses = over({ outcome: "Failed", code: "DoesNotFit", message: "give more spec.memoryPerRank", retry: false });
const actionsOf = ({ actions }: Decision): string[] => actions.map(actionText);
const messageOf = ({ status }: Decision, type: string): string =>
  status.conditions?.find((condition) => condition.type === type)?.message ?? "";
const two = { replicas: 2, elasticity: { maxReplicas: 4 } };

testDecisions({
  "a new job gets a pod that checks it, and no other": [
    { status: fresh, job: job(two) },
    "check 0 | SpecAccepted True Accepted, Running False Checking",
  ],
  "pods wait for the check": [{ status: fresh, checks: [checkView()] }, " | Running False Checking"],
  "a job that fits has its pods in the same look, and the one that checked goes before them": [
    { status: fresh, job: job(two), checks: [checkView({ over: fits })] },
    "delete j-check-job-0, create 0-0, create 1-0 | SpecAccepted True Accepted, Running False WaitingForRanks",
  ],
  "a check that was written down before its pod was deleted is not made again": [
    { status: {}, checks: [checkView({ over: fits })] },
    "delete j-check-job-0, create 0-0 | Running False Starting",
  ],
  "a job that does not fit has no pod": [
    { status: fresh, job: job(two), checks: [checkView({ over: refuses })] },
    "delete j-check-job-0 | SpecAccepted False DoesNotFit, Running False Refused",
  ],
  "a suspended job is not checked": [
    { status: fresh, job: job({ suspend: true }), checks: [checkView()] },
    "delete j-check-job-0 | Running False Suspended",
  ],
  "a spec that is refused as it stands is not checked": [
    { status: fresh, job: job({ replicas: 9, elasticity: { maxReplicas: 9 } }) },
    " | SpecAccepted False TooFewMicroBatches",
  ],
  "a job whose folder is another's is not checked": [
    { status: fresh, rival: "first", checks: [checkView()] },
    "delete j-check-job-0 | SpecAccepted False OutputTaken",
  ],
  "a pod that checks and that the API server refuses is told": [
    { status: fresh, podRefused: "exceeded quota" },
    " | Running False PodRefused",
  ],
  "a pod that ends early is one more": [
    { status: fresh, checks: [checkView({ over: over(undefined, { disrupted: true }) })] },
    "delete j-check-job-0 | Running False BackOff",
  ],
  "one that is being deleted, perhaps with its node, is followed by another": [
    { status: fresh, checks: [checkView({ deleting: true })] },
    " | Running False BackOff",
  ],
  "one of an earlier attempt is none": [
    { status: { check: { generation: 1, hash: "c", attempt: 2 } }, checks: [checkView({ attempt: 1, over: fits })] },
    "delete j-check-job-1, check 2 | Running False Checking",
  ],
});

test("a job that waits for its check has not begun, and says what its pod waits for; what it found stays in the status", () => {
  const waits = decide(observed({ status: fresh, checks: [checkView({ running: false, waiting: "Unschedulable: 0/3 nodes" })] }));
  assert.match(messageOf(waits, "Running"), /whether the job fits: Unschedulable: 0\/3 nodes/);
  assert.deepEqual([waits.status.image, waits.status.startTime, waits.status.replicas], [undefined, undefined, 0]);
  const found = decide(observed({ status: waits.status, checks: [checkView({ over: fits })] })).status;
  assert.deepEqual(found.check?.fits, { message: "1 rank needs 0.2 GB", sizes: { leastRanks: 2, alone: true } });
});

test("another generation is checked where something differs that the check depends on, and else is not", () => {
  const made = decide(observed({ job: job({ suspend: false }, 2) }));
  assert.deepEqual([actionsOf(made), made.status.check?.generation], [["create 0-0"], 2]);
  const changed = decide(observed({ job: job({ memoryPerRank: "2Gi" }, 2), checkHash: () => "d" }));
  assert.deepEqual(actionsOf(changed), ["check 1"]);
  const upgraded = decide(observed({ checkHash: () => "by another operator" }));
  assert.deepEqual([actionsOf(upgraded), upgraded.status.check?.hash], [["create 0-0"], "by another operator"]);
});

test("what was refused is checked again once the spec has changed, though nothing differs: its claims may", () => {
  const { status } = decide(observed({ status: fresh, checks: [checkView({ over: refuses })] }));
  assert.deepEqual(actionsOf(decide(observed({ status }))), []);
  assert.deepEqual(actionsOf(decide(observed({ status, checks: [checkView({ over: refuses })] }))), ["delete j-check-job-0"]);
  const again = decide(observed({ status, job: job({}, 2) }));
  assert.deepEqual([actionsOf(again), again.status.refusal], [["check 1"], undefined]);
  const found = over({ outcome: "Failed", code: "BadData", message: "token 7 is 9999", retry: false });
  const later = decide(observed({ pods: [pod({ over: found })] }));
  assert.deepEqual(later.status.check, { generation: 1, hash: "c", attempt: 1 }, "what ranks refuse, too");
  const suspended = decide(observed({ status: later.status, job: job({ suspend: true }, 2) }));
  assert.deepEqual(actionsOf(decide(observed({ status: suspended.status, job: job({}, 3) }))), ["check 1"]);
});

test("what a pod refuses of the spec as it was is asked of the spec as it is; what it allows stands", () => {
  const late = (ended: PodView["over"]) => decide(observed({ status: fresh, job: job(two, 2), checks: [checkView({ over: ended })] }));
  const no = late(refuses);
  assert.deepEqual(
    [actionsOf(no), no.status.refusal, conditions(no.status).Running],
    [["delete j-check-job-0"], undefined, "False Checking"],
  );
  const next = observed({ status: no.status, job: job(two, 2) });
  assert.deepEqual(actionsOf(decide(next)), ["check 1"]);
  const own = decide(observed({ status: no.status, job: job(two, 2), checks: [checkView({ attempt: 1, generation: 2, over: refuses })] }));
  assert.equal(conditions(own.status).SpecAccepted, "False DoesNotFit");
  assert.deepEqual(actionsOf(late(fits)), ["delete j-check-job-0", "create 0-0", "create 1-0"]);
});

test("a pod that fails is followed by another, later and later, until the spec counts as refused; ends from outside only wait", () => {
  let status: MoETrainingJobStatus = fresh;
  let now = start;
  const waits: (number | undefined)[] = [];
  const end = (ended: PodView["over"]): void => {
    const attempt = status.check?.attempt ?? 0;
    const look = decide(observed({ status, checks: [checkView({ attempt, over: ended })], now: new Date(now) }));
    ({ status } = look);
    waits.push(look.requeueAfterMs);
    if (status.refusal !== undefined) return;
    assert.deepEqual(actionsOf(decide(observed({ status, now: new Date(now) }))), [], "not at once");
    now += look.requeueAfterMs ?? 0;
    assert.deepEqual(actionsOf(decide(observed({ status, now: new Date(now) }))), [`check ${attempt + 1}`]);
  };
  end(over(undefined, { disrupted: true }));
  const failed = over({ outcome: "Failed", code: "BadData", message: "index.json: cannot be opened (EIO)", retry: true });
  for (let i = 0; i <= checkFailuresMax; i++) end(i % 2 === 0 ? failed : over(undefined, { reason: "OOMKilled" }));
  assert.deepEqual(waits.slice(0, 4), [5_000, 10_000, 20_000, 40_000]);
  assert.equal(Math.max(...waits.map((wait) => wait ?? 0)), 300_000);
  assert.equal(status.refusal?.reason, "CheckFailed");
  assert.match(status.refusal?.message ?? "", /failed 10 times, the last time: OOMKilled: exit code 1; correct it, and change the spec/);
  assert.equal(status.restarts, 0, "none of them is a failure of the job");
  const again = decide(observed({ status, job: job({}, 2), now: new Date(now) }));
  assert.deepEqual([actionsOf(again), again.status.check?.failures], [["check 11"], undefined]);
});

const pair = [rankPod(0), rankPod(1)];
const pairSays = says({ step: 40, curve: [] }, ["p0", "p1"]);
const training = decide(observed({ job: job(two), pods: pair, reports: pairSays })).status;

test("pods of an operator that checked nothing train on unchecked, and a later spec of their job is checked", () => {
  const { check: _none, ...old } = { ...training, startTime: "2026-01-01T00:00:00Z" };
  const status = { ...old, ...fresh };
  const look = decide(observed({ job: job(two), status, pods: pair, reports: pairSays }));
  assert.deepEqual([actionsOf(look), conditions(look.status).Running], [[], "True Training"]);
  assert.deepEqual(actionsOf(decide(observed({ job: job(two), status, pods: [pair[0]!], reports: pairSays }))), ["create 1-0"]);
  const later = decide(
    observed({ job: job(two, 2), status: look.status, pods: pair, reports: pairSays, checkHash: () => "d", templateHash: () => "i" }),
  );
  assert.deepEqual([actionsOf(later), conditions(later.status).Running], [["check 1"], "True Training"]);
});

test("pods train on while a changed spec is checked, by the spec as it was where it does not fit, and are replaced where it does", () => {
  const changed = { job: job({ ...two, memoryPerRank: "2Gi" }, 2), pods: pair, reports: pairSays };
  const other = { ...changed, checkHash: () => "d", templateHash: () => "i" };
  const begins = decide(observed({ ...other, status: training }));
  assert.deepEqual(actionsOf(begins), ["check 1"]);
  const { status } = begins;
  const view = checkView({ attempt: 1, running: false, since: start });
  const waits = (ms: number) => decide(observed({ ...other, status, checks: [view], now: new Date(start + ms) }));
  assert.deepEqual(actionsOf(waits(119_000)), []);
  assert.match(messageOf(waits(119_000), "Running"), /step 40 of 100, by the spec as it was; Checking: whether the job fits/);
  assert.deepEqual(actionsOf(waits(120_000)), ["delete j-train-0-0", "delete j-train-1-0"], "it may have no room beside them");
  const ran = observed({ ...other, status, checks: [{ ...view, running: true }], now: new Date(start + 120_000) });
  assert.deepEqual(actionsOf(decide(ran)), []);
  const no = decide(observed({ ...other, status, checks: [checkView({ attempt: 1, generation: 2, over: refuses })] }));
  assert.deepEqual(actionsOf(no), ["delete j-check-job-1"]);
  assert.deepEqual([conditions(no.status).SpecAccepted, conditions(no.status).Running], ["False DoesNotFit", "True Training"]);
  const yes = decide(observed({ ...other, status, checks: [checkView({ attempt: 1, over: fits })] }));
  assert.deepEqual(actionsOf(yes), ["delete j-check-job-1", "delete j-train-0-0", "delete j-train-1-0"]);
});

test("a number of ranks that does not fit is refused by what the check found, without a pod, and those that train go on", () => {
  const check = (leastRanks: number | undefined, alone: boolean) => {
    const sizes = { ...(leastRanks !== undefined && { leastRanks }), alone };
    return { check: { ...fitting, fits: { message: "it fits", sizes } } };
  };
  const scaled = (replicas: number, sizes: ReturnType<typeof check>, spec: object = {}) =>
    decide(observed({ job: job({ ...two, replicas, ...spec }, 2), status: { ...training, ...sizes }, pods: pair, reports: pairSays }));
  const grown = scaled(3, check(2, false));
  assert.deepEqual([actionsOf(grown), conditions(grown.status).SpecAccepted], [["create 2-0"], "True Accepted"]);
  const shrunk = scaled(1, check(2, false));
  assert.deepEqual(actionsOf(shrunk), []);
  assert.deepEqual([conditions(shrunk.status).SpecAccepted, conditions(shrunk.status).Running], ["False DoesNotFit", "True Training"]);
  assert.match(messageOf(shrunk, "SpecAccepted"), /^spec\.replicas is 1, and spec\.memoryPerRank 1Gi is enough for 2 or more: set one/);
  const large = scaled(3, check(undefined, true));
  assert.deepEqual(actionsOf(large), []);
  assert.match(messageOf(large, "SpecAccepted"), /spec\.replicas is 3, and spec\.memoryPerRank 1Gi is enough for 1: /);
  const back = decide(observed({ job: job(two, 3), status: shrunk.status, pods: pair, reports: pairSays }));
  assert.deepEqual([actionsOf(back), conditions(back.status).SpecAccepted], [[], "True Accepted"]);
});

type Fate = "fits" | "refuses" | "crash" | "evict";
const fates: Readonly<Record<Fate, PodView["over"]>> = {
  fits,
  refuses,
  crash: over(undefined),
  evict: over(undefined, { disrupted: true }),
};
/** The spec's memory decides whether it fits: odd does not. */
class Life {
  status: MoETrainingJobStatus = {};
  pods: PodView[] = [];
  checks: PodView[] = [];
  memory = 0;
  generation = 1;
  suspend = false;
  now = start;
  crashAfter = Number.POSITIVE_INFINITY;
  #uids = 0;

  get job() {
    return job({ memoryPerRank: `${this.memory + 1}Gi`, suspend: this.suspend }, this.generation);
  }

  change(change: "memory" | "suspend" | "other"): void {
    this.generation += 1;
    if (change === "memory") this.memory += 1;
    if (change === "suspend") this.suspend = !this.suspend;
  }

  /** The kubelet: pods that check end as they may, and those that are deleted go. */
  live(trouble: "crash" | "evict" | undefined): void {
    this.checks = this.checks
      .filter(({ deleting }) => !deleting)
      .map((one) => ({ ...one, over: one.over ?? fates[trouble ?? (Number(one.hash) % 2 === 0 ? "fits" : "refuses")] }));
    this.pods = this.pods.filter(({ deleting }) => !deleting);
  }

  look(): void {
    const { job, status, pods, checks, memory } = this;
    const reports = says(
      undefined,
      pods.map(({ uid }) => uid),
    );
    const hashes = { checkHash: () => `${memory}`, templateHash: () => `${memory}` };
    const now = new Date(this.now);
    const decision = decide(observed({ job, status: { ...fresh, ...status }, pods, checks, reports, now, ...hashes }));
    if (this.#crashes()) return;
    this.status = decision.status;
    for (const action of decision.actions) {
      if (this.#crashes()) return;
      if (action.kind === "delete") {
        const gone = (one: PodView): PodView => (one.uid === action.uid ? { ...one, deleting: true } : one);
        [this.pods, this.checks] = [this.pods.map(gone), this.checks.map(gone)];
        continue;
      }
      assert.ok(!this.suspend, "a suspended job gets no pod");
      const [uid, { attempt }] = [`u${this.#uids++}`, action];
      if (action.kind === "check") {
        const view = checkView({ attempt, uid, hash: `${memory}`, generation: this.generation, since: this.now });
        assert.equal(this.checks.filter((one) => !one.deleting && one.over === undefined).length, 0, "one at a time");
        if (!this.checks.some(({ name }) => name === view.name)) this.checks.push(view);
        continue;
      }
      assert.equal(memory % 2, 0, "what does not fit has no pod");
      this.pods.push(pod({ name: `j-train-0-${attempt}`, uid, attempt, hash: `${memory}`, since: this.now }));
    }
  }

  #crashes(): boolean {
    this.crashAfter -= 1;
    return this.crashAfter === -1;
  }
}

test("whatever changes and wherever the operator dies, pods are made of specs alone that fit, and in peace what fits trains", () => {
  const event = fc.oneof(
    fc.constantFrom("memory" as const, "suspend" as const, "other" as const),
    fc.constantFrom("crash" as const, "evict" as const),
  );
  const events = fc.array(fc.tuple(event, fc.nat(3), fc.option(fc.nat(3))), { maxLength: 25 });
  fc.assert(
    fc.property(events, (happens) => {
      const life = new Life();
      for (const [happened, looks, crash] of happens) {
        const trouble = happened === "crash" || happened === "evict" ? happened : undefined;
        if (happened !== "crash" && happened !== "evict") life.change(happened);
        life.crashAfter = crash ?? Number.POSITIVE_INFINITY;
        for (let i = 0; i <= looks; i++) {
          life.look();
          life.live(trouble);
          life.now += 1_000;
        }
      }
      life.crashAfter = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 30; i++) {
        life.live(undefined);
        life.look();
        life.now += 300_000;
      }
      assert.deepEqual(life.checks, []);
      const { Running: runs, SpecAccepted: accepted } = conditions(life.status);
      if (life.suspend) return assert.deepEqual([life.pods, runs], [[], "False Suspended"]);
      const fit = life.memory % 2 === 0;
      assert.equal(accepted, fit ? "True Accepted" : "False DoesNotFit");
      if (fit) assert.deepEqual([life.pods.length, runs], [1, "True Training"]);
      for (const { hash } of life.pods) assert.equal(Number(hash) % 2, 0);
    }),
    { numRuns: 300 },
  );
});
