// Refusals by the operator, by a quota, by somebody else's object: each is said in the status, and nothing else stops for it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { conditionOf, type MoeWorld, serving, world } from "../../test/kit/deployment/moe-world.ts";
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
