// A leader that loses its lease waits and leads again in the same process, and nothing of an earlier term runs or writes in a later one.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { ManualClock } from "../../test/kit/manual-clock.ts";
import { type KubeObject, resources } from "./kube.ts";
import { fenced, LeaderElection } from "./leader.ts";
import { Terms } from "./terms.ts";

const lease = { namespace: "ns", name: "leader" };
const manager = { manager: "test" };
const configMap = (name: string): KubeObject => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace: "ns" } });

function replica(kube: FakeKube, clock: ManualClock, end: () => Promise<void> = async () => {}) {
  const log: string[] = [];
  const fences: (() => boolean)[] = [];
  const terms = new Terms({
    elect: (on) => new LeaderElection({ kube, lease, identity: "a", clock, ...on }),
    begin: async (leading) => {
      fences.push(leading);
      log.push("begun");
      return async () => {
        await end();
        log.push("ended");
      };
    },
    onLost: () => log.push("lost"),
    clock,
  });
  return { terms, log, fences };
}

/** The API server answers nobody, or everybody again. */
function switchOff(kube: FakeKube): () => void {
  const { get } = kube;
  const away = () => Promise.reject(new AppError("away", { code: "Unavailable" }));
  kube.get = away as FakeKube["get"];
  kube.onWrite = () => {
    throw new AppError("away", { code: "Unavailable" });
  };
  return () => {
    kube.get = get;
    kube.onWrite = () => {};
  };
}

test("an API server that is away for 15 minutes ends the term and not the process, and the next term follows by itself", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const { terms, log, fences } = replica(kube, clock);
  const running = terms.run();
  await clock.advance(3_000);
  assert.deepEqual(log, ["begun"]);
  const back = switchOff(kube);
  await clock.advance(15 * 60_000);
  assert.deepEqual(log, ["begun", "lost", "ended"]);
  back();
  await clock.advance(5_000);
  assert.deepEqual(log, ["begun", "lost", "ended", "begun"]);
  const [first, second] = fences;
  assert.deepEqual([first?.(), second?.()], [false, true], "the fence of a term that is over stays shut");
  await assert.rejects(fenced(kube, first ?? (() => true)).create(resources.configMaps, configMap("late"), manager), { code: "NotLeader" });
  terms.stop();
  await clock.advance(0);
  await running;
  assert.equal(((await kube.get(resources.leases, lease)) as any).spec.holderIdentity, "", "the lease is given back");
});

test("a replica that is told to stop ends its term first; one without a lease just ends", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const leader = replica(kube, clock);
  const running = leader.terms.run();
  await clock.advance(100);
  leader.terms.stop();
  await clock.advance(0);
  await running;
  assert.deepEqual(leader.log, ["begun", "ended"]);
  switchOff(kube);
  const waiting = replica(kube, clock);
  const waited = waiting.terms.run();
  await clock.advance(100);
  waiting.terms.stop();
  await clock.advance(0);
  await waited;
  assert.deepEqual(waiting.log, []);
});

test("a term that does not end is given up with an error, since only a new process is rid of it", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const { terms } = replica(kube, clock, () => new Promise(() => {}));
  const running = terms.run();
  const failed = assert.rejects(running, { code: "TermHangs" });
  await clock.advance(100);
  switchOff(kube);
  await clock.advance(200_000);
  await failed;
});
