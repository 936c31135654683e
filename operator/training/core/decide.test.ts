// The decisions of a training job: each case by itself, and whole lives under crashes between any two writes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import { type TrainingEnd, trainingReportSchema } from "../../../crds/training-report.ts";
import { conditions, job, observed, over, pod, says, start, testDecisions } from "../../../test/kit/training/training-decisions.ts";
import { decide, isOver, isTrue } from "./decide.ts";
import type { PodView } from "./pod-view.ts";

const failed = (code: string, retry: boolean) => over({ outcome: "Failed", code, message: "why", retry });

const done: MoETrainingJobStatus = decide(observed({ pods: [pod({ over: over({ outcome: "Complete" }) })] })).status;
const two = { replicas: 2, elasticity: { maxReplicas: 2 } };
const tooMany = { replicas: 9, elasticity: { maxReplicas: 9 } };
/** Of pods that are made after an end. */
const made = start + 1_000;
const begun: MoETrainingJobStatus = decide(observed({ pods: [pod()], reports: says() })).status;
testDecisions({
  "a new job gets a pod": [{}, "create 0-0 | SpecAccepted True Accepted, Running False Starting"],
  "a pod that answers gets a world": [{ pods: [pod()], reports: says() }, " | Running True Training"],
  "a pod that has not answered yet is waited for": [{ pods: [pod()] }, " | Running False Starting"],
  "a suspended job has no pod": [
    { job: job({ suspend: true }), pods: [pod()] },
    "delete j-train-0-0 | Running False Suspended, Suspended True Requested",
  ],
  "more ranks than micro-batches are refused before there is a pod": [
    { job: job(tooMany) },
    " | SpecAccepted False TooFewMicroBatches, Running False Refused",
  ],
  "a template that cannot be is refused": [
    { templateProblems: [{ reason: "FieldNotSupported", message: "spec.podTemplate.spec.hostNetwork" }] },
    " | SpecAccepted False FieldNotSupported",
  ],
  "a pod made before a refused change goes on": [
    { job: job(tooMany, 2), pods: [pod()], reports: says(), status: begun },
    " | SpecAccepted False TooFewMicroBatches, Running True Training",
  ],
  "a pod that failed is counted and goes": [
    { pods: [pod({ over: over(undefined, { reason: "OOMKilled" }) })] },
    "delete j-train-0-0 | Running False Restarting",
  ],
  "input that the pod refuses is told as a refused spec": [
    { pods: [pod({ over: failed("BadData", false) })] },
    "delete j-train-0-0 | SpecAccepted False BadData",
  ],
  "input that a pod of an older spec refused is tried again": [
    { job: job({}, 2), pods: [pod({ over: failed("BadData", false) })] },
    "delete j-train-0-0 | SpecAccepted True Accepted, Running False SpecChanged",
  ],
  "a loss that is not finite ends the job": [
    { pods: [pod({ over: failed("NonFiniteLoss", false) })] },
    "delete j-train-0-0 | Failed True NonFiniteLoss, Running False Failed",
  ],
  "an evicted pod does not count": [
    { pods: [pod({ over: over(undefined, { disrupted: true }) })] },
    "delete j-train-0-0 | Running False Stopped",
  ],
  "a pod of another template is replaced": [{ pods: [pod({ hash: "old" })] }, "delete j-train-0-0 | Running False Replacing"],
  "no second pod is made while the first is leaving": [{ pods: [pod({ deleting: true })] }, " | "],
  "no pod is made while one of another object may write the folder": [{ otherWriters: ["former-train-3"] }, " | Running False Replacing"],
  "no pod is made while one that says no rank is there": [
    { pods: [pod({ name: "stray", rank: -1, attempt: -1 })] },
    "delete stray | Running False Replacing",
  ],
  "a rank whose former pod's end was judged gets another, though its node still has it": [
    { status: { attempts: [0, 1] }, job: job(two), pods: [pod(), pod({ name: "j-train-1-0", uid: "p1", rank: 1, deleting: true })] },
    "create 1-1 | Running False WaitingForRanks",
  ],
  "of several ends a failure that is for good counts": [
    {
      job: job(two),
      pods: [pod({ over: over(undefined) }), pod({ name: "j-train-1-0", rank: 1, over: failed("NonFiniteLoss", false) })],
    },
    "delete j-train-0-0, delete j-train-1-0 | Failed True NonFiniteLoss",
  ],
  "a folder that is another job's is refused, and a pod that writes it is ended": [
    { rival: "first", pods: [pod()] },
    "delete j-train-0-0 | SpecAccepted False OutputTaken, Running False Refused",
  ],
  "a pod that the API server refuses is told": [
    { podRefused: "exceeded quota" },
    " | Running False PodRefused, SpecAccepted True Accepted",
  ],
  "a finished job whose pod is deleted does not start again": [{ status: done }, " | Complete True AllStepsDone"],
  "a finished job does not start again for a changed spec": [
    { status: done, job: job({ suspend: true }, 5), pods: [pod()] },
    "delete j-train-0-0 | Complete True AllStepsDone",
  ],
});

test("input that was refused stays refused until the spec changes, and is checked then", () => {
  const { status } = decide(observed({ pods: [pod({ over: failed("BadData", false) })] }));
  const same = decide(observed({ status }));
  assert.deepEqual(same.actions, []);
  assert.equal(conditions(same.status).SpecAccepted, "False BadData");
  const changed = decide(observed({ status, job: job({ memoryPerRank: "2Gi" }, 2) }));
  assert.deepEqual(changed.actions, [{ kind: "check", attempt: 1 }]);
});

for (const code of ["InvalidSpec", "OutOfRange", "FieldNotSupported"]) {
  test(`a pod that refuses with the operator's own word ${code} is not made again for the same spec`, () => {
    let status = decide(observed({ pods: [pod({ over: failed(code, false) })] })).status;
    status = decide(observed({ status, job: job({ suspend: true }) })).status;
    const again = decide(observed({ status }));
    assert.deepEqual(again.actions, []);
    assert.equal(conditions(again.status).SpecAccepted, `False ${code}`);
    const changed = decide(observed({ status: again.status, job: job({}, 2) }));
    assert.deepEqual(changed.actions, [{ kind: "check", attempt: 1 }]);
    assert.equal(changed.status.refusal, undefined);
  });
}

test("ends that do not count as failures have a pause too, longer and longer without a new step", () => {
  let status: MoETrainingJobStatus = {};
  const waits: (number | undefined)[] = [];
  const stop = (step: number, given: Partial<PodView> = {}): void => {
    const end = over({ outcome: "Stopped", report: { step, curve: [] } });
    status = decide(observed({ status, pods: [pod({ attempt: status.attempts?.[0] ?? 0, since: made, over: end, ...given })] })).status;
    waits.push(decide(observed({ status })).requeueAfterMs);
  };
  for (const step of [3, 3, 3, 9]) stop(step);
  stop(0, { over: over(undefined, { disrupted: true }) });
  assert.deepEqual(waits, [5_000, 10_000, 20_000, 5_000, 10_000]);
  assert.equal(status.restarts, 0);
  assert.equal(conditions(status).Running, "False Stopped");
  const edited = decide(observed({ job: job({}, 2), pods: [pod({ over: over({ outcome: "Stopped" }) })] })).status;
  assert.deepEqual(decide(observed({ job: job({}, 2), status: edited })).actions, [{ kind: "create", rank: 0, attempt: 1 }]);
});

test("a pod that says more steps than there are says nothing more, and a step that is not known takes nothing back", () => {
  const far = { step: 90_000_000, curve: [{ step: 90_000_000, loss: 1 }] };
  const { status } = decide(observed({ pods: [pod()], reports: says(far) }));
  assert.deepEqual([status.step, status.progress, status.curve], [100, "100%", undefined]);
  const ended = decide(observed({ pods: [pod({ over: over({ outcome: "Failed", retry: true, report: far }) })] })).status;
  assert.equal(ended.lastFailure?.step, 100);
  const before = decide(observed({ pods: [pod()], reports: says({ step: 40, curve: [] }) })).status;
  assert.equal(decide(observed({ status: before, pods: [pod()], reports: says() })).status.step, 40);
});

test("what the last step measured stays in the status in few digits, and a stranger's number takes no place", () => {
  const report = { step: 1, loss: 1, gradientNorm: 0.000012345678, imbalance: 2.34567, curve: [] };
  const { status } = decide(observed({ pods: [pod()], reports: says(report) }));
  assert.deepEqual([status.gradientNorm, status.imbalance], ["0.00001235", "2.3457"]);
  const quiet = decide(observed({ status, pods: [] })).status;
  assert.deepEqual([quiet.gradientNorm, quiet.imbalance], ["0.00001235", "2.3457"]);
  const odd = trainingReportSchema.parse({ step: 2, loss: 3, gradientNorm: -1, imbalance: 1e300 });
  assert.deepEqual(odd, { step: 2, loss: 3, curve: [], gradientNorm: undefined, imbalance: undefined });
  for (const gradientNorm of [0, 5e-324, 1e12]) {
    const text = decide(observed({ pods: [pod()], reports: says({ curve: [], gradientNorm }) })).status.gradientNorm ?? "";
    assert.ok(text.length <= 64 && Number.isFinite(Number(text)), text);
  }
});

test("failures in a row wait longer and longer, and a new step ends the row", () => {
  let status: MoETrainingJobStatus = {};
  const waits: (number | undefined)[] = [];
  const fail = (step: number): void => {
    const attempt = status.restarts ?? 0;
    const end: TrainingEnd = { outcome: "Failed", code: "Internal", retry: true, report: { step, curve: [] } };
    status = decide(observed({ status, pods: [pod({ attempt, since: made, over: over(end) })] })).status;
    const next = decide(observed({ status }));
    assert.deepEqual(next.actions, [], "not at once");
    waits.push(next.requeueAfterMs);
  };
  for (const step of [3, 3, 3, 9]) fail(step);
  assert.deepEqual(waits, [5_000, 10_000, 20_000, 5_000]);
  const later = decide(observed({ status, now: new Date(start + 5_000) }));
  assert.deepEqual(later.actions, [{ kind: "create", rank: 0, attempt: 4 }]);
});

test("a job keeps the image that it began with", () => {
  const { status } = decide(observed());
  assert.equal(status.image, "enodia/training:1");
  assert.equal(decide(observed({ status, image: "enodia/training:2" })).status.image, "enodia/training:1");
  const refused = decide(observed({ job: job(tooMany) }));
  assert.equal(refused.status.image, undefined, "one that has not begun has none");
});

test("progress, the curve and the result are in the status", () => {
  const report = { step: 40, loss: 2.5, tokensPerSecond: 812.4, secondsLeft: 95, curve: [{ step: 40, loss: 2.5 }] };
  const { status } = decide(observed({ pods: [pod()], reports: says(report) }));
  assert.deepEqual(
    [status.step, status.progress, status.loss, status.tokensPerSecond, status.eta, status.readyReplicas],
    [40, "40%", "2.5000", 812, "95s", 1],
  );
  const quiet = decide(observed({ pods: [pod()], status }));
  assert.equal(quiet.status.step, 40, "a pod that does not answer takes nothing back");
  assert.equal(quiet.status.tokensPerSecond, undefined);
  assert.equal(done.result?.store, "pvc://models/out/store");
  assert.equal(done.progress, "100%");
});

test("what somebody wrote into the status of a job that is over does not stand", () => {
  const lost = decide(observed({ pods: [pod({ over: failed("NonFiniteLoss", false) })] })).status;
  for (const end of [done, lost]) {
    const conditions = end.conditions?.map((one) => (one.type === "Running" ? { ...one, status: "True" as const, message: "x" } : one));
    const { result: _lost, ...others } = end;
    const edited = { ...others, conditions, replicas: 3, ...(end === done && { step: 1, progress: "1%" }) };
    assert.deepEqual(decide(observed({ status: edited })).status, end);
  }
  const suspended = decide(observed({ job: job({ suspend: true }), status: done }));
  assert.deepEqual(suspended.status, done, "and no later wish changes it");
});

type Fate = "Complete" | "Crash" | "Evict";
/** A world with a status, pods and a crash after a number of writes. */
class World {
  status: MoETrainingJobStatus = {};
  pods: PodView[] = [];
  writes = 0;
  crashAt = Number.POSITIVE_INFINITY;
  readonly ranks: number;
  made: number[] = [];
  failures = 0;
  uid = 0;
  now = start;

  constructor(ranks: number) {
    this.ranks = ranks;
  }

  #write(change: () => void): void {
    if (this.writes++ === this.crashAt) throw new Error("crash");
    change();
  }

  /** As the shell: the status first, then the actions. */
  reconcile(): void {
    const given = { job: job({ replicas: this.ranks, elasticity: { maxReplicas: 3 } }), now: new Date(this.now) };
    const reports = says(
      undefined,
      this.pods.map(({ uid }) => uid),
    );
    const { status, actions } = decide(observed({ ...given, status: this.status, pods: this.pods, reports }));
    this.#write(() => {
      this.status = status;
    });
    for (const action of actions) {
      this.#write(() => {
        assert.notEqual(action.kind, "check", "it is checked once");
        if (action.kind === "delete") this.pods = this.pods.filter(({ uid }) => uid !== action.uid);
        if (action.kind === "create") {
          const { rank, attempt } = action;
          this.made.push(attempt);
          this.pods.push(pod({ name: `j-train-${rank}-${attempt}`, uid: `p${this.uid++}`, rank, attempt }));
        }
      });
      const numbers = this.pods.map(({ rank }) => rank);
      assert.equal(new Set(numbers).size, numbers.length, "never two pods of a rank");
    }
  }

  meet(fate: Fate, rank: number): void {
    const ends: Record<Fate, PodView["over"]> = {
      Complete: over({ outcome: "Complete" }),
      Crash: over(undefined),
      Evict: over(undefined, { disrupted: true }),
    };
    this.pods = this.pods.map((one) => {
      if (one.over !== undefined || one.rank !== rank) return one;
      if (fate === "Crash") this.failures += 1;
      return { ...one, over: ends[fate] };
    });
  }
}

test("wherever the operator crashes, no end is lost or counted twice, and a finished job never has a pod again", () => {
  const fates = fc.array(fc.constantFrom<Fate>("Crash", "Evict"), { maxLength: 6 });
  fc.assert(
    fc.property(fates, fc.array(fc.nat(6), { maxLength: 12 }), fc.integer({ min: 1, max: 3 }), (fatesBefore, planned, ranks) => {
      const crashes = [...planned];
      const world = new World(ranks);
      const settle = (): void => {
        // More rounds than there are crashes, so that the last ones are whole.
        for (let i = 0; i < 20; i++) {
          world.crashAt = world.writes + (crashes.shift() ?? 1_000);
          try {
            world.reconcile();
          } catch (caught) {
            assert.equal((caught as Error).message, "crash");
          }
          world.now += 300_000;
        }
      };
      for (const [i, fate] of [...fatesBefore, "Complete" as const].entries()) {
        settle();
        assert.equal(world.pods.length, ranks);
        assert.deepEqual(
          world.status.world?.ranks.map(({ uid }) => uid),
          world.pods.toSorted((a, b) => a.rank - b.rank).map(({ uid }) => uid),
        );
        world.meet(fate, fate === "Complete" ? 0 : i % ranks);
      }
      crashes.push(0, 1, 0, 1);
      settle();
      assert.equal(world.status.restarts, world.failures);
      assert.ok(isTrue(world.status, "Complete") && isOver(world.status));
      assert.deepEqual(world.pods, []);
      const made = world.made.length;
      settle();
      assert.equal(world.made.length, made, "none is made after the end");
    }),
    { numRuns: 300 },
  );
});

test("a job that fails more often than it may is failed, with the last reason", () => {
  let status: MoETrainingJobStatus = {};
  const limited = job({ failurePolicy: { maxRestarts: 1 } });
  for (const attempt of [0, 1]) {
    assert.equal(isOver(status), false);
    status = decide(observed({ job: limited, status, pods: [pod({ attempt, over: over(undefined, { reason: "OOMKilled" }) })] })).status;
  }
  assert.equal(conditions(status).Failed, "True RestartLimit");
  assert.match(status.conditions?.find(({ type }) => type === "Failed")?.message ?? "", /failed 2 times.*maxRestarts is 1.*OOMKilled/);
});
