// The operator's own autoscaler under real load: ranks come, a rank that is not heard freezes the number, and without load ranks go.
// No request fails.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "grows";
const [least, most] = [2, 4];
const clients = 8;
/** Tokens a second and rank that the slowest machine comes to with so many clients, several times over. */
const target = 8;
const scaledWithinMs = 240_000;
/** A stopped process is missed after 3 s, and its pod is not ready a few seconds later. */
const stoppedMs = 12_000;

const autoscale = {
  min: least,
  max: most,
  metrics: [
    { name: "tokensPerSecondPerRank", target },
    { name: "kvUse", target: 90 },
  ],
  behaviour: { scaleUp: { maxRanks: 1, period: "5s" }, scaleDown: { stabilizationWindow: "30s", period: "5s" } },
};

let cluster: Target;
let moe: Deployed;
let load: Load | undefined;

explainFailures(() => moe);
before(async () => {
  cluster = await openWorld();
  // Applied replicas would be whose tool applies them; left out, they are the autoscaler's.
  const spec = { replicas: undefined, elasticity: { settle: "1s", autoscale }, experts: { memoryPerRank: "250Mi" } };
  moe = await deploy(cluster, "e2e-autoscale", smolMoe(name, spec));
});
after(async () => {
  await load?.stop();
  if (moe) await remove(moe);
});

const deployment = (): Promise<any> => moe.kubectl.get("moed", name);
const replicas = async (): Promise<number> => (await deployment()).spec.replicas;
const scaling = async (): Promise<{ status: string; reason: string; message: string } | undefined> =>
  (await deployment()).status?.conditions?.find(({ type }: any) => type === "ScalingActive");
const noted = async (reason: string): Promise<readonly any[]> =>
  (await moe.kubectl.list("events", "")).filter((event) => event.reason === reason);

test("under load ranks come one by one, and all of them serve", { timeout: 600_000 }, async () => {
  await until("the autoscaler to be active", async () => ((await scaling())?.status === "True" ? true : undefined), { timeoutMs: 60_000 });
  const url = await moe.url();
  load = startLoad({ url: () => url, model: name, clients, topic: "story", maxTokens: 48 });
  await until("all ranks to be asked for", async () => ((await replicas()) === most ? true : undefined), { timeoutMs: scaledWithinMs });
  await waitReady(moe.kubectl, name, scaledWithinMs);
  assert.equal((await workerPods(moe.kubectl, name)).length, most);
  const { lastScale } = (await deployment()).status.autoscale;
  assert.deepEqual([lastScale.from, lastScale.to], [most - 1, most]);
  assert.match(lastScale.message, /^tokensPerSecondPerRank \d+\/8, kvUse \d+\/90%; replicas 3 -> 4$/);
  // A rank that has just come is heard for too short a time to be measured by.
  const measured = async () => ((await deployment()).status.autoscale.metrics?.length === autoscale.metrics.length ? true : undefined);
  await until("every metric to have its figure", measured, { timeoutMs: 60_000 });
  assert.ok((await noted("ScaledUp")).length >= most - least);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("a rank that is not heard freezes the number, with a warning that names it", { timeout: 300_000 }, async () => {
  const [victim] = await workerPods(moe.kubectl, name);
  const pid = await processOf(victim?.metadata.uid ?? "");
  process.kill(pid, "SIGSTOP");
  try {
    // A rank that has just come has no rate yet, which was told too.
    const silent = /ranks \d are ready and not heard, and what is not known is no reason to scale/;
    const told = async () => (await noted("SignalsMissing")).find((event) => silent.test(event.note ?? event.message));
    await until("a warning", told, { timeoutMs: 2 * stoppedMs });
    assert.equal(await replicas(), most);
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await until("it to go on", async () => ((await scaling())?.status === "True" ? true : undefined), { timeoutMs: scaledWithinMs });
  assert.equal(await replicas(), most);
});

test("without load ranks go, not before the window is over, down to the least", { timeout: 600_000 }, async () => {
  await waitReady(moe.kubectl, name, scaledWithinMs);
  await load?.stop();
  await sleep(10_000);
  assert.equal(await replicas(), most);
  await until("the least to be asked for", async () => ((await replicas()) === least ? true : undefined), { timeoutMs: scaledWithinMs });
  await waitReady(moe.kubectl, name, scaledWithinMs);
  const gone = async () => ((await workerPods(moe.kubectl, name)).length === least ? true : undefined);
  await until("the other pods to be gone", gone, { timeoutMs: 60_000 });
  await until("it to say so", async () => ((await scaling())?.reason === "AtMinimum" ? true : undefined), { timeoutMs: 60_000 });
  assert.equal(load?.counts.failed, 0, load?.errors[0]);
});
