// The operator is killed before each single write of a roll that fails and is rolled back; a new one must end in the same world: every
// rank with the template before, the failed one kept out, and one entry for each operation in the history.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { crashing, pods, readyWith, ref, serving, startOperator, status, user } from "../../test/kit/deployment/deployment-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const bad = "enodia/runtime:bad";
const imageOf = (pod: any): string => pod.spec.containers[0].image;

/** Returns the number of writes that it took. */
async function crashAt(n: number): Promise<number> {
  const { kube, life, operator: first } = await serving((pod) => (imageOf(pod) === bad ? crashing : undefined));
  await until("it was whole", async () => (await status(kube)).rollout?.phase === "Complete");
  const were = pods(kube).map((pod) => pod.metadata.uid);
  await kube.patch(resources.moeDeployments, ref, { spec: { runtimeImage: { image: bad }, rolloutStrategy: { maxSurge: 2 } } }, user);
  let operator = first;
  let writes = 0;
  let dead = false;
  kube.onWrite = (_verb, resource) => {
    if (resource.kind === "Event") return; // a courtesy, whose loss is none
    if (dead) throw new AppError("killed", { code: "Unavailable" });
    writes += 1;
    if (writes !== n) return;
    dead = true;
    throw new AppError("killed", { code: "Unavailable" });
  };
  await until("it is rolled back", async () => {
    if (dead) {
      await operator.stop();
      dead = false;
      operator = await startOperator(kube);
    }
    const { rollout, operation, availableReplicas } = await status(kube);
    return rollout?.phase === "RolledBack" && operation === undefined && availableReplicas === 3 && pods(kube).length === 3;
  });
  assert.deepEqual(
    pods(kube).map((pod) => pod.metadata.uid),
    were,
    `killed at write ${n}`,
  );
  const ids: string[] = (await status(kube)).history.map(({ id }: { id: string }) => id);
  assert.equal(new Set(ids).size, ids.length, `killed at write ${n}: ${ids}`);
  assert.deepEqual(life.problems, []);
  const spent = writes;
  await kube.patch(resources.moeDeployments, ref, { spec: { runtimeImage: null } }, user);
  await until("the spec is what runs", readyWith(kube, 3));
  assert.deepEqual(
    pods(kube).map((pod) => pod.metadata.uid),
    were,
  );
  life.stop();
  await operator.stop();
  return spent;
}

test("the operator may die before any write of a roll that fails: another takes it back", { timeout: 240_000 }, async () => {
  const total = await crashAt(-1);
  const atOnce = 8; // they mostly wait
  for (let n = 1; n <= total; n += atOnce)
    await Promise.all(Array.from({ length: Math.min(atOnce, total - n + 1) }, (_, i) => crashAt(n + i)));
});
