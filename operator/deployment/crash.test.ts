// The operator is killed before each single write in turn; a new one must lead the world to the same end, with no rank ever
// held twice.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
  kubelet,
  pods,
  ranks,
  readyWith,
  ref,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

/** Start, lose a node, shrink and roll at once; the operator dies at its n-th write and another takes over. */
async function crashAt(n: number): Promise<number> {
  const kube = await world();
  const life = kubelet(kube);
  let writes = 0;
  let dead = false;
  kube.onWrite = () => {
    if (dead) throw new AppError("killed", { code: "Unavailable" });
    writes += 1;
    if (writes === n) {
      dead = true;
      throw new AppError("killed", { code: "Unavailable" });
    }
  };
  const asUser = async (patch: object) => {
    const hook = kube.onWrite;
    kube.onWrite = () => {};
    await kube.patch(resources.moeDeployments, ref, patch, user);
    kube.onWrite = hook;
  };
  let operator = await startOperator(kube);
  const revive = async () => {
    if (!dead) return;
    await operator.stop();
    dead = false;
    n = -1;
    operator = await startOperator(kube);
  };
  const reach = (want: number) =>
    until(`${want} ranks serve`, async () => {
      await revive();
      return readyWith(kube, want)();
    });
  await reach(3);
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "Unknown" }));
  await sleep(20);
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "True" }));
  await asUser({ spec: { replicas: 2, runtime: { maxContext: 64 } } });
  await until("the new world stands", async () => {
    await revive();
    const hash = new Set(pods(kube).map((object) => object.metadata.annotations["enodia.dev/template-hash"]));
    return (await readyWith(kube, 2)()) && hash.size === 1 && conditionOf(await status(kube), "Progressing")?.reason === "Converged";
  });
  assert.equal(new Set(ranks(kube)).size, 2);
  assert.deepEqual(life.problems, []);
  assert.equal(kube.all(resources.secrets).filter((secret) => secret.metadata.name.startsWith("enodia-ca.")).length, 1);
  life.stop();
  await operator.stop();
  return writes;
}

test("the operator may die before any of its writes: another ends in the same world", { timeout: 240_000 }, async () => {
  const total = await crashAt(-1);
  const atOnce = 8; // they mostly wait
  for (let n = 1; n <= total; n += atOnce) {
    await Promise.all(Array.from({ length: Math.min(atOnce, total - n + 1) }, (_, i) => crashAt(n + i)));
  }
});
