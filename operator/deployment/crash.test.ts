// The operator is killed before each single write in turn; a new one must lead the world to the same end, with no rank ever held twice:
// through a start, a lost node, a scale and a roll, and through a roll that fails and is rolled back.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { crashing, type MoeWorld, whole, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";

/** Has the operator die at its n-th write, but for those of some kind, and another take over where `revive` is called. */
function killed(moe: MoeWorld, n: number, free = "") {
  let [writes, dead] = [0, false];
  const onWrite: typeof moe.kube.onWrite = (_verb, { kind }) => {
    if (kind === free) return;
    if (!dead) writes += 1;
    dead ||= writes === n;
    if (dead) throw new AppError("killed", { code: "Unavailable" });
  };
  moe.kube.onWrite = onWrite;
  return {
    writes: () => writes,
    revive: async () => {
      if (!dead) return;
      await moe.stop();
      [dead, n] = [false, -1];
      await moe.start();
    },
    /** What a user does meanwhile. */
    asUser: async (spec: object) => {
      moe.kube.onWrite = () => {};
      await moe.change(spec);
      moe.kube.onWrite = onWrite;
    },
  };
}

/** Start, lose a node, shrink and roll at once. Returns the number of writes that it took. */
async function startAndRoll(t: TestContext, n: number): Promise<number> {
  const moe = await world(t);
  const { writes, revive, asUser } = killed(moe, n);
  await moe.start();
  await until("3 ranks serve", async () => {
    await revive();
    return moe.ready(3);
  });
  moe.node("node-1", "Unknown");
  await sleep(20);
  moe.node("node-1", "True");
  await asUser({ replicas: 2, runtime: { maxContext: 64 } });
  await until("the new world stands", async () => {
    await revive();
    const hash = new Set(moe.pods.map(({ metadata }) => metadata.annotations["enodia.dev/template-hash"]));
    return (await moe.ready(2)) && hash.size === 1 && moe.is("Progressing", "Converged");
  });
  assert.equal(new Set(moe.ranks).size, 2);
  assert.equal(moe.all("secrets").filter(({ metadata }) => metadata.name.startsWith("enodia-ca.")).length, 1);
  await moe.end();
  return writes();
}

const bad = "enodia/runtime:bad";

/** A roll that fails ends with the template before on every rank, and with one entry for each operation in the history. */
async function failedRoll(t: TestContext, n: number): Promise<number> {
  const moe = await whole(t, (pod) => (pod.spec.containers[0].image === bad ? crashing : undefined));
  const were = moe.uids;
  await moe.change({ runtimeImage: { image: bad }, rolloutStrategy: { maxSurge: 2 } });
  const { writes, revive } = killed(moe, n, "Event"); // a courtesy, whose loss is none
  await until("it is rolled back", async () => {
    await revive();
    const { rollout, operation } = await moe.status();
    return rollout?.phase === "RolledBack" && operation === undefined && moe.counts(3);
  });
  assert.deepEqual(moe.uids, were, `killed at write ${n}`);
  const ids: string[] = (await moe.status()).history.map(({ id }: { id: string }) => id);
  assert.equal(new Set(ids).size, ids.length, `killed at write ${n}: ${ids}`);
  const spent = writes();
  await moe.change({ runtimeImage: null });
  await moe.serves(3);
  assert.deepEqual(moe.uids, were);
  await moe.end();
  return spent;
}

for (const [what, crashAt] of Object.entries({ "a start and a roll": startAndRoll, "a roll that fails": failedRoll }))
  test(`the operator may die before any write of ${what}: another ends in the same world`, async (t) => {
    const total = await crashAt(t, -1);
    const atOnce = 8; // they mostly wait
    for (let n = 1; n <= total; n += atOnce)
      await Promise.all(Array.from({ length: Math.min(atOnce, total - n + 1) }, (_, i) => crashAt(t, n + i)));
  });
