// The machinery of operator/kube on the in-memory API and a clock that tests turn by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { ManualClock } from "../../test/kit/manual-clock.ts";
import { createController } from "./controller.ts";
import { EventRecorder } from "./events.ts";
import { type KubeObject, resources } from "./kube.ts";
import { fenced, LeaderElection } from "./leader.ts";
import { type Clock, WorkQueue } from "./workqueue.ts";

const configMap = (name: string, n = "0"): KubeObject => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace: "ns" },
  data: { n },
});
const manager = { manager: "test" };

test("a key waits once however often it is added, and runs again when added during its run", async () => {
  const queue = new WorkQueue(new ManualClock());
  queue.add("a");
  queue.add("a");
  assert.equal(await queue.next(), "a");
  queue.add("a");
  assert.equal(queue.depth, 0);
  queue.done("a");
  assert.equal(queue.depth, 1);
  assert.equal(await queue.next(), "a");
  queue.done("a");
  assert.equal(queue.depth, 0);
});

test("the earliest delay wins and back-off doubles up to its ceiling", async () => {
  const clock = new ManualClock();
  const queue = new WorkQueue(clock, { baseMs: 100, maxMs: 1000 });
  queue.addAfter("a", 500);
  queue.addAfter("a", 200);
  queue.addAfter("a", 900);
  await clock.advance(199);
  assert.equal(queue.depth, 0);
  await clock.advance(1);
  assert.equal(queue.depth, 1);
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6].map(() => queue.addBackedOff("b")),
    [100, 200, 400, 800, 1000, 1000],
  );
  queue.forget("b");
  assert.equal(queue.addBackedOff("b"), 100);
});

test("a closed queue ends its waiting workers", async () => {
  const queue = new WorkQueue(new ManualClock());
  const waiting = queue.next();
  queue.close();
  assert.equal(await waiting, undefined);
  assert.equal(await queue.next(), undefined);
});

test("a controller retries what fails with back-off and what asks to be run again", { timeout: 10_000 }, async () => {
  const runs: string[] = [];
  const results: string[] = [];
  const controller = createController({
    name: "test",
    workers: 2,
    resyncMs: 60_000,
    keys: () => ["x", "y"],
    reconcile: async (key) => {
      runs.push(key);
      if (key === "x" && runs.filter((one) => one === "x").length === 1) throw new Error("once");
      return key === "y" && runs.filter((one) => one === "y").length === 1 ? { requeueAfterMs: 5 } : {};
    },
    observe: () => (result) => results.push(result),
  });
  controller.start();
  await sleep(250);
  await controller.stop();
  assert.deepEqual(runs.sort(), ["x", "x", "y", "y"]);
  assert.deepEqual(results.sort(), ["error", "ok", "ok", "requeue"]);
});

test("what can never succeed is not tried again by itself, only when something changes", { timeout: 10_000 }, async () => {
  const runs: string[] = [];
  const controller = createController({
    name: "test",
    workers: 1,
    resyncMs: 60_000,
    keys: () => ["x"],
    reconcile: async (key) => {
      runs.push(key);
      throw new AppError("refused", { code: "Invalid", retry: "never" });
    },
  });
  controller.start();
  await sleep(400);
  assert.equal(runs.length, 1);
  controller.queue.add("x");
  await sleep(50);
  await controller.stop();
  assert.equal(runs.length, 2);
});

test("a reconcile that failed in part is retried, and earlier when it asks for that", { timeout: 10_000 }, async () => {
  const runs: number[] = [];
  const results: string[] = [];
  const controller = createController({
    name: "test",
    workers: 1,
    resyncMs: 60_000,
    keys: () => ["x"],
    reconcile: async () => {
      runs.push(Date.now());
      const failure = new AppError("not now", { code: "Invalid", retry: runs.length > 3 ? "never" : "backoff" });
      return runs.length === 6 ? {} : { requeueAfterMs: 5, failure };
    },
    observe: () => (result) => results.push(result),
  });
  controller.start();
  await sleep(400);
  await controller.stop();
  assert.equal(runs.length, 6);
  assert.deepEqual(results, ["error", "error", "error", "error", "error", "ok"]);
});

const lease = { namespace: "ns", name: "leader" };
function candidate(kube: FakeKube, clock: Clock, identity: string) {
  const log: string[] = [];
  const election = new LeaderElection({
    kube,
    lease,
    identity,
    clock,
    onElected: () => log.push("elected"),
    onLost: (reason) => log.push(`lost: ${reason}`),
  });
  return { election, log };
}

test("one of two replicas leads, and the other takes over after the lease ran out", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const a = candidate(kube, clock, "a");
  const b = candidate(kube, clock, "b");
  a.election.start();
  await clock.advance(100);
  b.election.start();
  await clock.advance(30_000);
  assert.deepEqual([a.election.isLeader, b.election.isLeader], [true, false]);
  let cut = true;
  const renew = kube.onWrite;
  kube.onWrite = () => {
    if (cut) throw new AppError("no network", { code: "Unavailable" });
    renew("", resources.leases, "");
  };
  await clock.advance(10_500);
  assert.equal(a.election.isLeader, false);
  assert.match(a.log.join(), /lost: the lease could not be renewed/);
  assert.equal(b.election.isLeader, false, "nobody leads while the API server takes no writes");
  cut = false;
  await clock.advance(20_000);
  assert.equal(b.election.isLeader, true);
  assert.deepEqual(b.log, ["elected"]);
});

test("two replicas never lead at one moment, wherever one of them is cut off", async () => {
  for (let cutAt = 0; cutAt < 12_000; cutAt += 700) {
    const clock = new ManualClock();
    const kube = new FakeKube(clock.now);
    const cutOff = { ...kube, get: kube.get, update: kube.update, create: kube.create } as unknown as FakeKube;
    let cut = false;
    const guarded = new Proxy(cutOff, {
      get: (target, key) => (cut ? () => Promise.reject(new AppError("cut", { code: "Unavailable" })) : Reflect.get(target, key)),
    });
    const a = candidate(guarded, clock, "a");
    const b = candidate(kube, clock, "b");
    a.election.start();
    await clock.advance(50);
    b.election.start();
    await clock.advance(cutAt);
    cut = true;
    for (let t = 0; t < 60; t++) {
      await clock.advance(500);
      assert.ok(!(a.election.isLeader && b.election.isLeader), `both lead ${t * 500} ms after the cut at ${cutAt}`);
    }
    assert.equal(b.election.isLeader, true);
  }
});

test("a leader that stops gives the lease back, so that the other leads within a retry", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const a = candidate(kube, clock, "a");
  const b = candidate(kube, clock, "b");
  a.election.start();
  await clock.advance(100);
  b.election.start();
  await clock.advance(100);
  await a.election.stop();
  await clock.advance(2_100);
  assert.equal(b.election.isLeader, true);
});

test("a turn that wins while the replica stops starts nothing, and the lease is given back", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const a = candidate(kube, clock, "a");
  a.election.start();
  await a.election.stop();
  assert.deepEqual(a.log, []);
  assert.equal(((await kube.get(resources.leases, lease)) as any).spec.holderIdentity, "");
});

test("an answer that comes late does not make the lease older than it is", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  let late: (() => void) | undefined;
  let hold = false;
  const slow = new Proxy(kube, {
    get: (target, key) => {
      if (key !== "update" || !hold) return Reflect.get(target, key);
      hold = false; // carried out at once, answered much later
      return async (...args: Parameters<FakeKube["update"]>) => {
        const written = await kube.update(...args);
        await new Promise<void>((resolve) => {
          late = resolve;
        });
        return written;
      };
    },
  });
  const a = candidate(slow, clock, "a");
  a.election.start();
  await clock.advance(3_000);
  hold = true;
  await clock.advance(14_000); // given up after 5 s; turns go on
  late?.();
  await clock.advance(0);
  await clock.advance(1_000);
  assert.equal(a.election.isLeader, true);
  assert.deepEqual(a.log, ["elected"]);
});

test("a former leader's writes are refused and its reads are not", async () => {
  const kube = new FakeKube();
  let leading = true;
  const guarded = fenced(kube, () => leading);
  await guarded.create(resources.configMaps, configMap("a"), manager);
  leading = false;
  await assert.rejects(guarded.create(resources.configMaps, configMap("b"), manager), (error: AppError) => error.code === "NotLeader");
  await assert.rejects(guarded.delete(resources.configMaps, { namespace: "ns", name: "a" }), /does not lead/);
  assert.ok(await guarded.get(resources.configMaps, { namespace: "ns", name: "a" }));
});

test("a write that is under way when leadership ends is ended, and counts as refused", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  let leading = true;
  let request: AbortSignal | undefined;
  const hanging = new Proxy(kube, {
    get: (target, key) =>
      key === "applyStatus" || key === "delete"
        ? (_: unknown, __: unknown, options: { signal?: AbortSignal }) => {
            request = options.signal;
            return new Promise(() => {});
          }
        : Reflect.get(target, key),
  });
  const guarded = fenced(hanging, () => leading, clock);
  const object = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "a", namespace: "ns" } };
  for (const write of [
    () => guarded.applyStatus(resources.configMaps, object, manager),
    () => guarded.delete(resources.configMaps, { namespace: "ns", name: "a" }),
  ]) {
    leading = true;
    const outcome = write().then(
      () => "written",
      (error: AppError) => error.code,
    );
    await clock.advance(20_000);
    assert.equal(request?.aborted, false, "a leader's request may take its time");
    leading = false;
    await clock.advance(250);
    assert.equal(request?.aborted, true);
    assert.equal(await outcome, "NotLeader");
  }
});

test("a repeated event is counted on the first one, and a failing API server costs nothing", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const recorder = new EventRecorder({ kube, reportingInstance: "test", clock });
  const regarding = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", namespace: "ns", name: "moe", uid: "u" };
  const event = { regarding, type: "Warning" as const, reason: "NodeLost", note: "rank 1" };
  recorder.record(event);
  recorder.record(event);
  await clock.advance(31_000);
  recorder.record(event);
  recorder.record({ ...event, note: "rank 2" });
  await clock.advance(0);
  await recorder.flush();
  const written = kube.all(resources.events) as any[];
  assert.equal(written.length, 2);
  assert.deepEqual(written.map((one) => one.series?.count).sort(), [3, undefined]);
  kube.onWrite = () => {
    throw new Error("away");
  };
  recorder.record({ ...event, note: "rank 3" });
  await recorder.flush();
});

test("an event whose note differs each time is written in a burst, then once in a while, and the rest is counted", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const recorder = new EventRecorder({ kube, reportingInstance: "test", clock });
  const regarding = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", namespace: "ns", name: "moe", uid: "u" };
  for (let epoch = 0; epoch < 200; epoch++) {
    recorder.record({ regarding, type: "Normal", reason: "RebalanceAborted", note: `epoch ${epoch}` });
    await clock.advance(3_000);
  }
  recorder.record({ regarding, type: "Normal", reason: "RebalanceStarted", note: "another reason" });
  await recorder.flush();
  const written = kube.all(resources.events) as any[];
  const aborted = written.filter(({ reason }) => reason === "RebalanceAborted");
  assert.ok(aborted.length >= 34 && aborted.length <= 36, `${aborted.length} of 200 in ten minutes`);
  const counted = aborted.reduce((total, { series }) => total + (series?.count ?? 1), 0);
  assert.ok(counted > 60, `${counted} are counted`);
  assert.equal(written.length, aborted.length + 1);
});

test("a request about the lease that hangs does not cost the lease", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  let hang = false;
  const hanging = new Proxy(kube, {
    get: (target, key) => {
      if (key === "update" && hang) {
        hang = false; // one request is lost on a dead connection, the next goes through
        return () => new Promise(() => {});
      }
      return Reflect.get(target, key);
    },
  });
  const a = candidate(hanging, clock, "a");
  a.election.start();
  await clock.advance(3_000);
  hang = true;
  for (let t = 0; t < 40; t++) {
    await clock.advance(500);
    assert.equal(a.election.isLeader, true, `${t * 500} ms after the request was lost: ${a.log.join()}`);
  }
  assert.deepEqual(a.log, ["elected"]);
});

test("setting the machine's clock neither costs the lease nor keeps the fence open", { timeout: 30_000 }, async (t) => {
  const kube = new FakeKube();
  const lost: string[] = [];
  let setBy = 0;
  const real = Date.now.bind(Date);
  t.mock.method(Date, "now", () => real() + setBy);
  const election = new LeaderElection({
    ...{ kube, lease, identity: "a", onElected: () => {}, onLost: (reason) => lost.push(reason) },
    timing: { leaseMs: 3_000, renewDeadlineMs: 2_000, retryMs: 100 },
  });
  election.start();
  await sleep(200);
  assert.equal(election.isLeader, true);
  setBy = 3_600_000;
  assert.equal(election.isLeader, true, "an hour ahead is no silence");
  await sleep(300);
  assert.deepEqual([election.isLeader, ...lost], [true]);
  setBy = -3_600_000;
  kube.onWrite = () => {
    throw new AppError("no network", { code: "Unavailable" });
  };
  await sleep(2_300);
  assert.equal(election.isLeader, false, "an hour back does not make a lease younger");
  assert.match(lost.join(), /could not be renewed/);
});
