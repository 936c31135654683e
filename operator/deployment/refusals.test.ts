// Refusals by the operator, by a quota, by somebody else's object: each is said in the status, and nothing else stops for it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { conditionOf, crashing, type MoeWorld, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";

/** A quota on pods that counts, as the API server's does, also in a dry run. */
function quota(moe: MoeWorld, most: number): void {
  moe.refuse((kind, { metadata: { name } }) => {
    const numbers = `requested: pods=1, used: pods=${most}, limited: pods=${most}`;
    return kind === "Pod" && moe.pods.length >= most && `pods "${name}" is forbidden: exceeded quota: q, ${numbers}`;
  });
}
const available = (moe: MoeWorld, ranks: number) =>
  until(`${ranks} ranks serve`, async () => (await moe.status()).availableReplicas === ranks);

test("a quota that just fits holds up no roll and no replacement", async (t) => {
  const moe = await serving(t);
  quota(moe, 3);
  const before = moe.uids;
  await moe.change({ runtime: { maxContext: 64 } });
  await until("all are new", async () => (await moe.ready(3)) && moe.uids.every((uid) => !before.includes(uid)));
  await moe.check("SpecAccepted", "True");
});

test("a quota that is short is said where the missing rank is, in one event, and the others serve", async (t) => {
  const moe = await world(t);
  quota(moe, 2);
  await moe.start();
  await available(moe, 2);
  await moe.comes("Ready", /2 of 3 ranks serve: rank 2: pods "moe-2" is forbidden: exceeded quota/);
  const heard = moe.rebalance.world?.workers.filter((worker) => worker.ready).length;
  assert.equal(heard, 2, "the rebalance plane hears of those that are there");
  await sleep(50);
  const notes = moe.events("FailedCreate").map(({ note }) => note);
  assert.equal(new Set(notes).size, notes.length, "each is told once, however often it is tried");
  assert.ok(notes.some((note) => /rank 2: pods "moe-2" is forbidden/.test(note)));
});

test("ranks that a spec lets end are taken out with the reason; one looks again, and all are made for another spec or what it finds mended", async (t) => {
  const ends: { code: string | undefined } = { code: "CodecNotFound" };
  const message = () =>
    JSON.stringify({ level: "fatal", code: ends.code, message: "the store has q8_0: set spec.runtime.expertCodec to it" });
  const waiting = { reason: "CrashLoopBackOff" };
  const ended = () => [{ restartCount: 1, state: { waiting }, lastState: { terminated: { exitCode: 1, message: message() } } }];
  const fate = () => (ends.code === undefined ? undefined : { ...crashing, containerStatuses: ended() });
  const moe = await world(t, {}, fate);
  const { create } = moe.kube;
  let made = 0; // dry runs left out
  moe.kube.create = async (resource, object, options) => {
    if (resource.kind === "Pod" && !options.dryRun) made += 1;
    return create(resource, object, options);
  };
  const later = async (ms: number, what: string, holds: () => boolean) => {
    moe.aheadMs = (moe.aheadMs ?? 0) + ms;
    moe.wake();
    await until(what, holds);
  };
  moe.aheadMs = 0;
  await moe.start();
  await moe.comes("SpecAccepted", "CodecNotFound", /the store has q8_0: set spec.runtime.expertCodec/);
  await later(11_000, "a leader that has had time to ask takes them out", () => moe.pods.length === 0);
  await moe.check("SpecAccepted", "False", "CodecNotFound", /one looks again after 20 s/);
  await moe.check("Ready", "False", "CodecNotFound");
  moe.wake();
  await sleep(50);
  assert.deepEqual([made, moe.pods.length], [3, 0], "none is made meanwhile");
  await later(21_000, "one looks again", () => made === 4 && moe.pods.length === 0);
  await moe.comes("SpecAccepted", /one looks again after 40 s/);
  ends.code = undefined;
  await later(41_000, "it finds the store mended", () => moe.pods.length > 0);
  await moe.serves(3);
  await moe.check("SpecAccepted", "True");
  assert.equal(made, 7);
});

test("ranks of a spec that was refused are all made for another", async (t) => {
  const message = JSON.stringify({ level: "fatal", code: "KvPoolTooSmall", message: "raise it to 512Mi" });
  const status = { ...crashing, containerStatuses: [{ restartCount: 1, state: {}, lastState: { terminated: { exitCode: 1, message } } }] };
  const isSmall = ({ spec }: any) => JSON.stringify(spec).includes('"2097152"');
  const moe = await world(t, { runtime: { kvPool: "2Mi" } }, (pod) => (isSmall(pod) ? status : undefined));
  moe.aheadMs = 0;
  await moe.start();
  await moe.comes("SpecAccepted", "KvPoolTooSmall");
  moe.aheadMs = 11_000;
  moe.wake();
  await until("they are taken out", () => moe.pods.length === 0);
  await moe.change({ runtime: { kvPool: "512Mi" } });
  await moe.serves(3);
  const { uids } = moe;
  await moe.change({ runtime: { kvPool: "2Mi" }, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  await moe.comes("SpecAccepted", "RolledBack");
  assert.deepEqual(moe.uids, uids, "a deployment that serves keeps its ranks");
});

test("a memory limit below memoryPerRank is refused before there is a pod only where the backend has no other memory", async (t) => {
  const podTemplate = { spec: { containers: [{ name: "runtime", resources: { limits: { memory: "2Gi" } } }] } };
  const moe = await world(t, { experts: { memoryPerRank: "4Gi" }, runtime: { backend: "cpu" }, podTemplate });
  await moe.start();
  await moe.comes("SpecAccepted", "False", "InsufficientMemoryLimit", /memoryPerRank 4Gi is above the memory limit 2Gi/);
  assert.equal(moe.pods.length, 0);
  // A device may come by a resource, a claim, or a runtime class, that of the node too.
  await moe.change({ runtime: { backend: "Auto" } });
  await moe.serves(3);
});

test("a certificate that cannot be written holds up neither the status nor the rebalance plane", async (t) => {
  const moe = await world(t);
  moe.kube.onWrite = (_, resource, name) => {
    if (resource.kind === "Secret" && /^moe-1-.*-tls$/.test(name)) throw new AppError("not now", { code: "Unavailable", retry: "backoff" });
  };
  await moe.start();
  await available(moe, 2);
  assert.equal(moe.rebalance.world?.workers.length, 3);
  await moe.check("Ready", /not now/);
  moe.kube.onWrite = () => {};
  await moe.serves(3);
});

test("an object that cannot be read keeps its status, all but what says so", async (t) => {
  const moe = await serving(t);
  const { conditions, observedGeneration, ...before } = await moe.status();
  await moe.change({ runtime: { kvPool: "9000Pi" } });
  await moe.comes("SpecAccepted", "False", "InvalidSpec", /spec\.runtime\.kvPool/);
  const { conditions: after, observedGeneration: seen, ...rest } = await moe.status();
  assert.deepEqual([rest, seen], [before, observedGeneration + 1]);
  const others = (list: any[]) =>
    list
      .filter(({ type }) => type !== "SpecAccepted" && type !== "Ready")
      .map(({ observedGeneration: _, ...one }) => one)
      .sort((a, b) => a.type.localeCompare(b.type));
  assert.deepEqual(others(after), others(conditions));
  assert.equal(conditionOf({ conditions: after }, "Ready").reason, "InvalidSpec");
  await moe.change({ runtime: { kvPool: "256Mi" } });
  await moe.comes("SpecAccepted", "True");
  await until("it is told", () => moe.events("Accepted").length > 0);
});

test("a Service of somebody else by the name of the deployment stays theirs", async (t) => {
  const moe = await world(t);
  const made = await moe.make("services", "moe", { spec: { selector: { app: "chat" } } });
  await moe.start();
  await moe.comes("SpecAccepted", "False", "ObjectRefused", /Service moe exists and does not belong to this MoEDeployment/);
  assert.deepEqual([await moe.get("services"), moe.pods], [made, []]);
});

test("a gateway template with a field of the operator's is refused and leaves the gateways as they are", async (t) => {
  const moe = await serving(t);
  const [before] = moe.all("deployments");
  await moe.change({ gateway: { podTemplate: { spec: { hostNetwork: true, priorityClassName: "high" } } } });
  await moe.comes("SpecAccepted", "False", "FieldNotSupported", /spec\.gateway\.podTemplate\.spec\.hostNetwork must be false/);
  assert.deepEqual(moe.all("deployments")[0].spec, before.spec);
});

test("a deployment that is being deleted is forgotten before it is gone", async (t) => {
  const moe = await serving(t);
  moe.mutate("moeDeployments", "moe", (one) => Object.assign(one.metadata, { deletionTimestamp: "2026-03-01T10:00:00Z" }));
  await until("its sessions are closed", () => moe.rebalance.forgotten.length === 1);
});
