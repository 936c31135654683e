// From kubectl apply to tokens, and: the same request gives the same text with 1 and 3 workers, with other batch mates, while experts move.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { condition } from "../harness/kubectl.ts";
import { ask } from "../harness/openai.ts";
import { type Target, waitReady } from "../harness/product.ts";
import { explainFailures } from "./diagnose.ts";
import { collectTexts, type Texts } from "./texts.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;
let oneWorker: Texts;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
});
after(async () => {
  if (moe) await remove(moe);
});

test("apply gives a Ready deployment within 30 s on a warm machine, and a streamed answer", async () => {
  const started = Date.now();
  moe = await deploy(target, "e2e-serving", smolMoe("smol", { replicas: 1, experts: { memoryPerRank: "1Gi" } }));
  const seconds = (Date.now() - started) / 1000;
  assert.ok(seconds <= 30, `Ready after ${seconds} s`);
  const answer = await ask({ url: await moe.url(), model: "smol", prompt: "What is the capital of France?" });
  assert.match(answer.text, /\w/);
  assert.ok(answer.chunks > 1, "the answer came in one piece");
  assert.equal(answer.usage?.completion_tokens !== undefined, true);
});

test("with one worker the twenty prompts give the same text alone and with batch mates", async () => {
  oneWorker = await collectTexts(moe.url, "smol", 1);
  assert.equal(new Set(oneWorker.greedy).size, 20, "prompts must give different texts, or equality proves nothing");
  assert.deepEqual(await collectTexts(moe.url, "smol", 5), oneWorker);
});

test("with three workers the texts are those of one worker", async () => {
  await moe.kubectl.run(["scale", "moed/smol", "--replicas=3"]);
  await waitReady(moe.kubectl, "smol");
  assert.deepEqual(await collectTexts(moe.url, "smol", 4), oneWorker);
});

test("while experts are moved the texts stay the same", async () => {
  const before = await moe.kubectl.get("eplace", "smol");
  // An aggressive planner under this load: every window may move.
  await moe.kubectl.run([
    "patch",
    "moed/smol",
    "--type=merge",
    "-p",
    JSON.stringify({
      spec: { rebalancing: { mode: "Auto", interval: "1s", trigger: { imbalancePercent: 101, window: "2s", minTokens: 200 } } },
    }),
  ]);
  assert.deepEqual(await collectTexts(moe.url, "smol", 4), oneWorker);
  const after = await moe.kubectl.get("eplace", "smol");
  assert.ok(after.spec.epoch > before.spec.epoch, `no expert moved meanwhile: epoch ${before.spec.epoch} stayed`);
});

test("conditions of a healthy deployment say so", async () => {
  const moed = await moe.kubectl.get("moed", "smol");
  for (const type of ["Ready", "Available", "SpecAccepted", "ModelAvailable", "TelemetryFresh"]) {
    assert.equal(condition(moed, type)?.status, "True", `${type}: ${JSON.stringify(condition(moed, type))}`);
  }
  assert.equal(condition(moed, "Degraded")?.status, "False");
});

test("runtime pods hold no API token and satisfy the restricted Pod Security level", async () => {
  const pods = await moe.kubectl.list("pods");
  assert.ok(pods.length >= 4);
  for (const pod of pods) {
    const mounts = pod.spec.containers.flatMap((container: any) => container.volumeMounts ?? []);
    assert.ok(!mounts.some((mount: any) => mount.mountPath.includes("serviceaccount")), pod.metadata.name);
  }
});
