// Models that the nodes of ranks cannot mount: a claim that one node alone can have, and none at all. Ranks on other nodes give the texts
// of those that mount a shared claim, no request fails when the weight server goes, and a rank that starts meanwhile waits for it and says so.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { root } from "../integration/control-plane.ts";
import { gatewayAddress, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { twentyPrompts } from "../kit/gateway/topics.ts";
import { condition } from "../kit/kube/kubectl.ts";
import { modelsFolder } from "../kit/models/local-models.ts";
import { type Hub, startHub } from "../kit/models/model-hub.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const namespace = "e2e-delivery";
const prompts = twentyPrompts.slice(0, 6);
const tokens = 24;
/** Nodes of this cluster are slow, and each rank fetches its share first. */
const readyMs = 240_000;

let target: Target;
let moe: Deployed;
let fetched: Deployed;
let traffic: Traffic | undefined;
let hub: Hub | undefined;
let shared: string[] = [];
/** What is to be gone when the file ends, however it ends. */
const made: Deployed[] = [];

explainFailures(() => made.at(-1) ?? moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, namespace, smolMoe("shared", { replicas: 2 }));
  shared = await textsOf(moe);
  await remove(moe);
});
after(async () => {
  await traffic?.stop();
  await hub?.close();
  for (const one of made) await remove(one);
});

/** Makes a deployment in the namespace of the first. */
async function make(name: string, spec: Parameters<typeof smolMoe>[1]): Promise<Deployed> {
  const { kubectl } = moe;
  const one = { ...moe, name, url: async () => (await gatewayAddress(target, kubectl, name)).url };
  made.push(one);
  await kubectl.apply(smolMoe(name, spec));
  return one;
}

async function textsOf({ url, name }: Deployed): Promise<string[]> {
  const texts: string[] = [];
  const at = await url();
  for (const prompt of prompts) texts.push((await ask({ url: at, model: name, prompt, maxTokens: tokens, temperature: 0 })).text);
  return texts;
}

/** A volume on one node, and the claim that is bound to it. */
function claimOf(node: string): readonly object[] {
  const size = { storage: "20Gi" };
  const name = `single-${namespace}`;
  const spec = { storageClassName: "", accessModes: ["ReadWriteOnce"] };
  const hostname = { key: "kubernetes.io/hostname", operator: "In", values: [node] };
  const volume = {
    ...{ ...spec, capacity: size, persistentVolumeReclaimPolicy: "Retain", claimRef: { namespace, name: "single" } },
    hostPath: { path: modelsFolder(), type: "Directory" },
    nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions: [hostname] }] } },
  };
  return [
    { apiVersion: "v1", kind: "PersistentVolume", metadata: { name }, spec: volume },
    {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { name: "single", namespace },
      spec: { ...spec, volumeName: name, resources: { requests: size } },
    },
  ];
}

/** Declares a number of weight servers: what a person types with `kubectl scale` is drift, and put back. */
const weightServers = (replicas: 0 | 1) =>
  moe.kubectl.apply({ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: `${fetched.name}-weight-server` }, spec: { replicas } });

const weightServerPods = () => moe.kubectl.list("pods", `enodia.dev/deployment=${fetched.name},enodia.dev/component=weight-server`);

test("a claim for one node: ranks on others fetch from the weight server, and give the texts of a shared claim", async () => {
  const { kubectl } = moe;
  const node = (await kubectl.list("nodes"))[0]?.metadata.name ?? "";
  await kubectl.apply(...claimOf(node));
  fetched = await make("fetched", { model: { uri: "pvc://single/smol-moe" }, replicas: 2 });
  await waitReady(kubectl, "fetched", readyMs);
  const [weightServer] = await weightServerPods();
  assert.equal((weightServer as any)?.spec.nodeName, node, "the weight server is where its claim is");
  const nodes = (await workerPods(kubectl, "fetched")).map((pod: any) => pod.spec.nodeName);
  assert.ok(
    nodes.some((one) => one !== node),
    `ranks on ${nodes.join()}`,
  ); // prettier-ignore
  assert.deepEqual(await textsOf(fetched), shared);
});

test("no request fails when the weight server goes; a rank that starts meanwhile says that it waits, and comes once the weight server is back", async () => {
  const { kubectl } = moe;
  const url = await fetched.url();
  traffic = await startTraffic({ url: () => url, model: "fetched", clients: 2, everyMs: 3_000, tokens });
  const before = await weightServerPods();
  await kubectl.run(["delete", "pod", before[0]?.metadata.name ?? "", "--grace-period=0", "--force"]);
  await until(
    "another weight server in its place",
    async () => {
      const [pod] = (await weightServerPods()).filter(({ metadata }) => metadata.uid !== before[0]?.metadata.uid);
      return (pod as any)?.status?.conditions?.some((one: any) => one.type === "Ready" && one.status === "True") ? true : undefined;
    },
    { timeoutMs: 120_000, everyMs: 1_000 },
  );
  traffic.assertWhole();
  // What somebody else declares stays as it is, so that the weight server stays away.
  await weightServers(0);
  await until("the weight server to be gone", async () => ((await weightServerPods()).length === 0 ? true : undefined), {
    timeoutMs: 60_000,
  });
  await kubectl.run(["scale", "moed/fetched", "--replicas=3"]);
  const waits = (moed: any) =>
    /2 of 3 ranks serve: the weight server has no pod yet; .* those that start wait for it/.test(condition(moed, "Ready")?.message ?? "");
  const moed = await kubectl.waitFor("moed", "fetched", "the reason in the status", waits, 120_000);
  assert.equal(condition(moed, "ModelAvailable")?.reason, "WeightServerNotReady");
  traffic.assertWhole();
  await weightServers(1);
  await waitReady(kubectl, "fetched", readyMs);
  traffic.assertWhole();
  assert.ok(traffic.counts.requests > 10, `${traffic.counts.requests} requests`);
  await traffic.stop();
  traffic = undefined;
  assert.deepEqual(await textsOf(fetched), shared);
  await remove(fetched);
});

test("without a claim the weight server downloads: a limit that is too small is told with the numbers, one that is not serves", async () => {
  const { kubectl } = moe;
  const folder = join(root, "test/golden/tiny-f32");
  // Where pods reach the API server they reach this machine.
  const server = JSON.parse(await kubectl.run(["config", "view", "--minify", "-o", "json"])).clusters[0].cluster.server;
  const host = new URL(server).hostname;
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  hub = await startHub({ files, host });
  const endpoint = `http://${host}:${new URL(hub.url).port}`;
  await kubectl.apply({ apiVersion: "v1", kind: "Secret", metadata: { name: "hub" }, stringData: { HF_ENDPOINT: endpoint } });
  const model = (sizeLimit: string) => ({ uri: "hf://org/name", secretRef: { name: "hub" }, cache: { ephemeral: { sizeLimit } } });
  const runtime = { backend: "cpu", expertCodec: "f32", maxContext: 128, kvPool: "16Mi" };
  const hubbed = await make("hubbed", { model: model("100Ki"), replicas: 2, runtime, experts: { memoryPerRank: "64Mi" } });
  const small = (moed: any) => condition(moed, "ModelAvailable")?.reason === "CacheTooSmall";
  const refused = await kubectl.waitFor("moed", "hubbed", "the limit to be refused", small, readyMs);
  assert.match(
    condition(refused, "ModelAvailable")?.message ?? "",
    /do not fit 102400 bytes; raise spec\.model\.cache\.ephemeral\.sizeLimit to \d+Mi/,
  );
  await patchSpec(hubbed, { model: model("256Mi") });
  await waitReady(kubectl, "hubbed", readyMs);
  // A model of random weights: whatever it says, it says something.
  const { usage } = await ask({ url: await hubbed.url(), model: "hubbed", prompt: "a b c", maxTokens: 4 });
  assert.ok((usage?.completion_tokens ?? 0) > 0);
});
