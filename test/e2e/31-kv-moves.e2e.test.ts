// One rank for prefill and two for decode: long prompts go on at another rank with their keys and values. Either end of that transfer is
// killed at each of its steps, and ranks that were killed find what their disks keep: no text changes, and no request fails.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { type Sample, scrape, sum } from "../kit/kube/scrape.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { enodia, patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "moving";
const runtime = { backend: "cpu", expertCodec: "q4_0", maxContext: 1024, kvPool: "256Mi" };
const tokens = 48;
/** About 700 tokens each. */
const prompts = ["harbour", "orchard", "station"].map(
  (place) => `${`At the ${place} the morning began with a long list of small things that somebody had to do. `.repeat(36)}What came then?`,
);
const steps = ["prompt computed", "first token there", "keys and values under way", "answer going on"] as const;
const underWayMs = 60;
const goingOnAfter = 12;

let target: Target;
let moe: Deployed;
let expected: readonly string[] = [];
let salts = 0;

interface Strike {
  readonly step: (typeof steps)[number];
  readonly kill: () => Promise<void>;
}

/** Texts of all prompts at once, of which nothing was computed before; `strike` follows the first one. */
async function texts(strike?: Strike, salt = `run ${++salts}`): Promise<readonly string[]> {
  const url = await moe.url();
  let struck: Promise<void> | undefined;
  const after = async (ms: number): Promise<void> => {
    await sleep(ms);
    await strike?.kill();
  };
  if (strike?.step === "prompt computed") struck = after(500);
  const answers = prompts.map((prompt, i) =>
    ask({
      ...{ url, model, prompt, salt, maxTokens: tokens, temperature: i === 0 ? 0 : 0.9, seed: i },
      onToken: (_, count) => {
        if (i > 0) return;
        if (strike?.step === "first token there") struck ??= after(0);
        if (strike?.step === "keys and values under way") struck ??= after(underWayMs);
        if (strike?.step === "answer going on" && count === goingOnAfter) struck ??= after(0);
      },
    }),
  );
  const got = (await Promise.all(answers)).map(({ text }) => text);
  assert.equal(struck === undefined, strike === undefined, "the step came");
  await struck;
  return got;
}

const metricsOf = ({ metadata }: KubeObject): Promise<readonly Sample[]> => scrape(moe.kubectl, moe.namespace, metadata.name);

async function counted(component: "worker" | "gateway", name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  const pods = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=${component}`);
  const samples = await Promise.all(pods.map(metricsOf));
  return samples.reduce((all, each) => all + sum(each, name, labels), 0);
}

const served = (moed: KubeObject): boolean =>
  condition(moed, "RolesServed")?.status === "True" && moed.status.availableReplicas === 3 && moed.status.replicas === 3;

/** The ranks that serve, by number: the first is for prefill. */
async function inRoles(): Promise<readonly KubeObject[]> {
  await moe.kubectl.waitFor("moed", model, "roles that are served", served, 240_000);
  await waitReady(moe.kubectl, model, 240_000);
  const rankOf = ({ metadata }: KubeObject): number => Number((metadata.labels as Record<string, string>)["enodia.dev/rank"]);
  return (await workerPods(moe.kubectl, model)).toSorted((a, b) => rankOf(a) - rankOf(b));
}

const kill = async ({ metadata }: KubeObject): Promise<void> => void process.kill(await processOf(metadata.uid ?? ""), "SIGKILL");

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-kv-moves", smolMoe(model, { runtime }));
  expected = await texts();
});
after(async () => {
  if (moe) await remove(moe);
});

test("with roles the texts are the same, and prompts go on at other ranks with their keys and values", async () => {
  const before = (await workerPods(moe.kubectl, model)).map(({ metadata }) => metadata.uid).sort();
  await patchSpec(moe, { roles: { prefill: 1, decode: 2 } });
  const ranks = await inRoles();
  assert.deepEqual(ranks.map(({ metadata }) => metadata.uid).sort(), before, "roles replace no pod");
  await until(
    "the gateway to know the roles",
    async () => {
      assert.deepEqual(await texts(), expected);
      return (await counted("gateway", "enodia_gateway_role_requests_total", { role: "prefill" })) >= prompts.length ? true : undefined;
    },
    { timeoutMs: 120_000 },
  );
  assert.ok((await counted("worker", "enodia_kv_fetch_blocks_total", { result: "fetched" })) > 0);
  assert.ok((await counted("gateway", "enodia_gateway_handover_seconds_count")) > 0);
  const table = await enodia(moe, "status", model);
  assert.match(table, /RolesServed/);
  process.stderr.write(`${table.replace(/^/gm, "# ")}\n`);
});

for (const end of ["prefill", "decode"] as const) {
  for (const step of steps) {
    test(`a rank for ${end} killed: ${step}`, { timeout: 600_000 }, async () => {
      const [prefill, ...decode] = await inRoles();
      const busiest = async (): Promise<KubeObject> => {
        const open = decode.map(async (pod) => ({ pod, slots: sum(await metricsOf(pod), "enodia_worker_kv_slots", { state: "used" }) }));
        return (await Promise.all(open)).toSorted((a, b) => b.slots - a.slots)[0]?.pod as KubeObject;
      };
      const fetches = async (result: string): Promise<number> => counted("worker", "enodia_kv_fetches_total", { result });
      const killed = async (): Promise<void> => {
        const victim = end === "prefill" ? (prefill as KubeObject) : await busiest();
        await kill(victim);
        // Another pod takes its place sooner than a container that has crashed before.
        await moe.kubectl.run(["delete", "pod", victim.metadata.name, "--grace-period=0", "--force", "--wait=false"]);
      };
      const got = await texts({ step, kill: killed });
      assert.deepEqual(got, expected);
      const results = await Promise.all(["ok", "part", "none", "error"].map(async (result) => `${result} ${await fetches(result)}`));
      process.stderr.write(`# ${end}, ${step}: fetches ${results.join(", ")}\n`);
    });
  }
}

test("ranks that are all killed find on their disks what they had computed", { timeout: 900_000 }, async () => {
  await patchSpec(moe, { roles: null, runtime: { ...runtime, kvOffload: { memory: "256Mi", disk: "1Gi" } } });
  const rolled = ({ status, metadata }: KubeObject): boolean =>
    status.observedGeneration === metadata.generation && status.updatedReplicas === 3 && status.replicas === 3;
  await moe.kubectl.waitFor("moed", model, "ranks with a disk", rolled, 400_000);
  await waitReady(moe.kubectl, model, 240_000);
  const salt = "kept";
  assert.deepEqual(await texts(undefined, salt), expected);
  const stored = () => counted("worker", "enodia_kv_tier_blocks_total", { tier: "disk", result: "stored" });
  await until("blocks on disks", async () => ((await stored()) >= prompts.length ? true : undefined), { timeoutMs: 60_000 });
  for (const pod of await workerPods(moe.kubectl, model)) await kill(pod);
  await sleep(2_000);
  await waitReady(moe.kubectl, model, 240_000);
  assert.deepEqual(await texts(undefined, salt), expected);
  assert.ok((await counted("worker", "enodia_kv_tier_blocks_total", { tier: "disk", result: "found" })) > 0);
});
