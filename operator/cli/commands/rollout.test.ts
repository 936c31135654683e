// The command against an operator in a simulated cluster: what a person does about a roll, and what it then says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { crashing, pods, readyWith, ref, serving, status, user } from "../../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { until } from "../../../test/kit/wait.ts";
import { resources } from "../../kube/kube.ts";
import { execute } from "../command-tree.ts";
import { enodia } from "../registry.ts";
import { acts } from "./rollout.ts";

const bad = "enodia/runtime:bad";
const next = "enodia/runtime:next";
const roll = (kube: FakeKube, image: string, more: object = {}) =>
  kube.patch(resources.moeDeployments, ref, { spec: { runtimeImage: { image }, ...more } }, user);
const phase = (kube: FakeKube, want: string) => async () => (await status(kube)).rollout?.phase === want;
const spec = async (kube: FakeKube) => (await kube.get(resources.moeDeployments, ref))?.spec as any;

async function said(kube: FakeKube, verb: keyof typeof acts, more: { watch?: boolean; timeoutMs?: number; toRevision?: number } = {}) {
  const lines: string[] = [];
  const cluster = { kube, namespace: "ns" };
  const asked = { watch: false, timeoutMs: 20_000, toRevision: undefined, ...more };
  const code = await acts[verb]({ ...asked, cluster, name: "moe", print: (text) => void lines.push(text) });
  return { code, text: lines.join("\n") };
}

test("pause, resume and status --watch", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", phase(kube, "Complete"));
  assert.deepEqual(await said(kube, "resume"), { code: 0, text: "moe: nothing is paused and nothing was rolled back" });
  await said(kube, "pause");
  await roll(kube, next);
  await until("it is paused", phase(kube, "Paused"));
  const paused = await said(kube, "status", { watch: true });
  assert.equal(paused.code, 0);
  assert.match(paused.text, /^rollout {4}Paused {3}0 of 3 ranks serve with revision 2, last whole revision 1: 3 of 3 ranks keep/);
  assert.equal((await said(kube, "resume")).text, "moe: rolls go on");
  assert.match(
    (await said(kube, "status", { watch: true })).text,
    /Complete {3}3 of 3 ranks serve with revision 2, last whole revision 2$/,
  );
  await stop();
});

test("what was rolled back: status fails and names the remedy, undo makes the spec what runs", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving((pod) => (pod.spec.containers[0].image === bad ? crashing : undefined));
  await until("it was whole", phase(kube, "Complete"));
  await roll(kube, bad, { replicas: 3, rolloutStrategy: { maxSurge: 2 } });
  const watched = await said(kube, "status", { watch: true });
  assert.equal(watched.code, 1);
  assert.match(watched.text, /RolledBack .*from revision 2 to 1: pod moe-\d-\w+ of rank \d has crashed 3 times/);
  assert.match(watched.text, /enodia rollout undo moe -n ns/);
  const { text } = await said(kube, "history");
  assert.match(
    text,
    /^REVISION +GENERATION +TEMPLATE +IMAGE +MODEL +STATE\n +3 +1 +\w+ +enodia\/runtime:test +pvc:\/\/models\/moe \(q4_0\) +in effect, whole\n +2 +2 +\w+ +enodia\/runtime:bad/,
  );
  await until("the operation has ended", async () => (await status(kube)).operation === undefined);
  assert.match((await said(kube, "history")).text, /roll-\d+ +RolledBack +3 ranks, revision 1 +3 ranks, revision 2/);
  assert.match((await said(kube, "undo")).text, /the spec is that of revision 3 again \(generation 1\)/);
  const { runtimeImage, rolloutStrategy, replicas } = await spec(kube);
  assert.deepEqual([runtimeImage.image, rolloutStrategy.maxSurge, replicas], [undefined, 2, 3], "what is obeyed in any case stays");
  await until("it is accepted", phase(kube, "Complete"));
  assert.equal(pods(kube).length, 3);
  await stop();
});

test("undo goes to the spec before, or to one that is named; what is not kept is told with what is", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", phase(kube, "Complete"));
  await assert.rejects(said(kube, "undo"), /moe: no revision before the one in effect is kept; there are: 1/);
  await roll(kube, next);
  await until("it is rolled out", async () => (await status(kube)).rollout.stableRevision === 2 && (await readyWith(kube, 3)()));
  await assert.rejects(said(kube, "undo", { toRevision: 9 }), /moe: no revision 9 is kept; there are: 2, 1/);
  await said(kube, "undo");
  await until("the first is back", async () => (await status(kube)).rollout.revision === 3);
  await said(kube, "undo", { toRevision: 2 });
  assert.equal((await spec(kube)).runtimeImage.image, next);
  await stop();
});

test("a watch ends with its time, and a deployment that is not there is named", { timeout: 120_000 }, async () => {
  const slow = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
  const { kube, stop } = await serving((pod) => (pod.spec.containers[0].image === next ? slow : undefined));
  await until("it was whole", phase(kube, "Complete"));
  await roll(kube, next);
  await until("it waits for the pod", async () => (await status(kube)).operation?.phase === "Creating");
  const { code, text } = await said(kube, "status", { watch: true, timeoutMs: 1 });
  assert.equal(code, 1);
  assert.match(text, /operation {2}Roll \(roll-\d+\) Creating {3}3 ranks, revision 1 -> 3 ranks, revision 2/);
  kube.remove(resources.moeDeployments, ref);
  await assert.rejects(said(kube, "status"), /no MoEDeployment "moe" in namespace ns/);
  await stop();
});

for (const line of ["restart moe", "status", "status a b", "pause moe --to-revision 1"])
  test(`"rollout ${line}" is misuse`, () => assert.rejects(execute(enodia, ["rollout", ...line.split(" ")]), { code: "Usage" }));
