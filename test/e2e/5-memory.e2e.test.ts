// Experts are sharded for real: with the f32 model (2.5 GB of experts) container memory follows what a rank hosts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { sleep } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { enodia, patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

interface Rank {
  readonly hostedBytes: number;
  readonly budgetBytes: number;
  readonly memoryBytes: number;
  readonly memoryExpectedBytes: number;
}

let target: Target;
let moe: Deployed;
let control: number;

/** The kubelet samples memory every 10 s. */
const sampleMs = 11_000;
/** What a load of experts leaves for a moment, pages read once and pages freed, is gone by then. */
const settledWithinMs = 120_000;
/** A figure that changed by less from one sample to the next has settled. */
const settledShare = 0.02;

const within = (rank: Rank): boolean => rank.memoryBytes <= rank.memoryExpectedBytes;
const near = (rank: Rank, earlier: Rank | undefined): boolean =>
  earlier !== undefined && Math.abs(rank.memoryBytes - earlier.memoryBytes) <= settledShare * earlier.memoryBytes;

/** What the ranks take after a request, in the steady state: the last figures seen, in bounds or not, when none has come by then. */
async function ranks(): Promise<readonly Rank[]> {
  await ask({ url: await moe.url(), model: "big", prompt: "What is a contract?", maxTokens: 16 });
  const ends = Date.now() + settledWithinMs;
  let earlier: readonly Rank[] = [];
  for (;;) {
    await sleep(sampleMs);
    const now = JSON.parse(await enodia(moe, "status", "big", "-o", "json")).deployments[0].ranks as Rank[];
    process.stderr.write(`# memory of ranks: ${now.map(({ memoryBytes }) => `${(memoryBytes / 1e6).toFixed(0)} MB`).join(", ")}\n`);
    if (now.every((rank, i) => within(rank) && near(rank, earlier[i])) || Date.now() >= ends) {
      process.stderr.write(`${(await enodia(moe, "status", "big")).replace(/^/gm, "# ")}\n`);
      return now;
    }
    earlier = now;
  }
}

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  const runtime = { backend: "cpu", expertCodec: "f32", maxContext: 512, kvPool: "64Mi" };
  moe = await deploy(target, "e2e-memory", smolMoe("big", { replicas: 1, runtime, experts: { memoryPerRank: "3Gi" } }));
});
after(async () => {
  if (moe) await remove(moe);
});

test("one worker: memory is at most 1.15 x (dense + KV + hosted) + 400 MB", async () => {
  const [rank] = await ranks();
  assert.ok(rank && rank.hostedBytes > 2.3e9, `hosted ${rank?.hostedBytes}`);
  assert.ok(rank.hostedBytes <= rank.budgetBytes);
  assert.ok(rank.memoryBytes <= rank.memoryExpectedBytes, `memory ${rank.memoryBytes} of ${rank.memoryExpectedBytes}`);
  control = rank.memoryBytes;
});

test("three workers: none takes more than 65% of that, each within its budget", async () => {
  await patchSpec(moe, { replicas: 3, experts: { memoryPerRank: "1100Mi" } });
  await waitReady(moe.kubectl, "big", 180_000);
  const all = await ranks();
  assert.equal(all.length, 3);
  for (const rank of all) {
    assert.ok(rank.hostedBytes <= rank.budgetBytes, `hosted ${rank.hostedBytes} of ${rank.budgetBytes}`);
    assert.ok(rank.memoryBytes <= rank.memoryExpectedBytes, `memory ${rank.memoryBytes} of ${rank.memoryExpectedBytes}`);
    assert.ok(rank.memoryBytes <= 0.65 * control, `memory ${rank.memoryBytes}, one worker took ${control}`);
  }
});

test("replicas below the ranks that hold all experts: they stay, Ready stays True, and a lost one is replaced", async () => {
  await moe.kubectl.run(["scale", "moed/big", "--replicas=1"]);
  const blocked = (object: KubeObject): boolean => condition(object, "Progressing")?.reason === "ScaleDownBlocked";
  const held = await moe.kubectl.waitFor("moed", "big", "ScaleDownBlocked", blocked, 60_000);
  assert.match(condition(held, "Progressing")?.message ?? "", /^replicas 1: at least 3 ranks hold all experts/);
  assert.equal(held.status.expertParallel.leastRanks, 3);
  for (const type of ["Ready", "SpecAccepted"]) assert.equal(condition(held, type)?.status, "True");
  const [worker] = await workerPods(moe.kubectl, "big");
  await moe.kubectl.run(["delete", "pod", worker?.metadata.name ?? "", "--wait=false"]);
  await moe.kubectl.waitFor("moed", "big", "a rank to be missed", ({ status }) => status.availableReplicas < 3, 60_000);
  const whole = (object: KubeObject): boolean => object.status.availableReplicas === 3 && blocked(object);
  const again = await moe.kubectl.waitFor("moed", "big", "three ranks to serve again", whole, 120_000);
  assert.equal(condition(again, "Ready")?.status, "True");
});
