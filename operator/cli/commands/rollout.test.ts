// The command against an operator in a simulated cluster: what a person does about a roll, and what it then says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { crashing, type MoeWorld, whole } from "../../../test/kit/deployment/moe-world.ts";
import { until } from "../../../test/kit/wait.ts";
import { execute } from "../command-tree.ts";
import { enodia } from "../registry.ts";
import { acts } from "./rollout.ts";

const bad = "enodia/runtime:bad";
const next = "enodia/runtime:next";
const roll = (moe: MoeWorld, image: string, more: object = {}) => moe.change({ runtimeImage: { image }, ...more });
const spec = async (moe: MoeWorld) => (await moe.get("moeDeployments")).spec;

async function said(moe: MoeWorld, verb: keyof typeof acts, more: { watch?: boolean; timeoutMs?: number; toRevision?: number } = {}) {
  const lines: string[] = [];
  const cluster = { kube: moe.kube, namespace: "ns" };
  const asked = { watch: false, timeoutMs: 20_000, toRevision: undefined, ...more };
  const code = await acts[verb]({ ...asked, cluster, name: "moe", print: (text) => void lines.push(text) });
  return { code, text: lines.join("\n") };
}

test("pause, resume and status --watch", async (t) => {
  const moe = await whole(t);
  assert.deepEqual(await said(moe, "resume"), { code: 0, text: "moe: nothing is paused and nothing was rolled back" });
  await said(moe, "pause");
  await roll(moe, next);
  await moe.reaches("Paused");
  const paused = await said(moe, "status", { watch: true });
  assert.equal(paused.code, 0);
  assert.match(paused.text, /^rollout {4}Paused {3}0 of 3 ranks serve with revision 2, last whole revision 1: 3 of 3 ranks keep/);
  assert.equal((await said(moe, "resume")).text, "moe: rolls go on");
  const complete = /Complete {3}3 of 3 ranks serve with revision 2, last whole revision 2$/;
  assert.match((await said(moe, "status", { watch: true })).text, complete);
});

test("what was rolled back: status fails and names the remedy, undo makes the spec what runs", async (t) => {
  const moe = await whole(t, (pod) => (pod.spec.containers[0].image === bad ? crashing : undefined));
  await roll(moe, bad, { replicas: 3, rolloutStrategy: { maxSurge: 2 } });
  const watched = await said(moe, "status", { watch: true });
  assert.equal(watched.code, 1);
  assert.match(watched.text, /RolledBack .*from revision 2 to 1: pod moe-\d-\w+ of rank \d has crashed 3 times/);
  assert.match(watched.text, /enodia rollout undo moe -n ns/);
  const { text } = await said(moe, "history");
  assert.match(
    text,
    /^REVISION +GENERATION +TEMPLATE +IMAGE +MODEL +STATE\n +3 +1 +\w+ +enodia\/runtime:test +pvc:\/\/models\/moe \(q4_0\) +in effect, whole\n +2 +2 +\w+ +enodia\/runtime:bad/,
  );
  await until("the operation has ended", async () => (await moe.status()).operation === undefined);
  assert.match((await said(moe, "history")).text, /roll-\d+ +RolledBack +3 ranks, revision 1 +3 ranks, revision 2/);
  assert.match((await said(moe, "undo")).text, /the spec is that of revision 3 again \(generation 1\)/);
  const { runtimeImage, rolloutStrategy, replicas } = await spec(moe);
  assert.deepEqual([runtimeImage.image, rolloutStrategy.maxSurge, replicas], [undefined, 2, 3], "what is obeyed in any case stays");
  await moe.reaches("Complete");
  assert.equal(moe.pods.length, 3);
});

test("undo goes to the spec before, or to one that is named; what is not kept is told with what is", async (t) => {
  const moe = await whole(t);
  await assert.rejects(said(moe, "undo"), /moe: no revision before the one in effect is kept; there are: 1/);
  await roll(moe, next);
  await until("it is rolled out", async () => (await moe.status()).rollout.stableRevision === 2 && moe.ready(3));
  await assert.rejects(said(moe, "undo", { toRevision: 9 }), /moe: no revision 9 is kept; there are: 2, 1/);
  await said(moe, "undo");
  await until("the first is back", async () => (await moe.status()).rollout.revision === 3);
  await said(moe, "undo", { toRevision: 2 });
  assert.equal((await spec(moe)).runtimeImage.image, next);
});

test("a watch ends with its time, and a deployment that is not there is named", async (t) => {
  const slow = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
  const moe = await whole(t, (pod) => (pod.spec.containers[0].image === next ? slow : undefined));
  await roll(moe, next);
  await until("it waits for the pod", async () => (await moe.status()).operation?.phase === "Creating");
  const { code, text } = await said(moe, "status", { watch: true, timeoutMs: 1 });
  assert.equal(code, 1);
  assert.match(text, /operation {2}Roll \(roll-\d+\) Creating {3}3 ranks, revision 1 -> 3 ranks, revision 2/);
  moe.remove("moeDeployments");
  await assert.rejects(said(moe, "status"), /no MoEDeployment "moe" in namespace ns/);
});

for (const line of ["restart moe", "status", "status a b", "pause moe --to-revision 1"])
  test(`"rollout ${line}" is misuse`, () => assert.rejects(execute(enodia, ["rollout", ...line.split(" ")]), { code: "Usage" }));
