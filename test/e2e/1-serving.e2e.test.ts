// Serving from kubectl apply to tokens; and the same request gives the same text with 1 and 3 workers, with other batch mates,
// while experts move.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { condition } from "../harness/kubectl.ts";
import { ask } from "../harness/openai.ts";
import { until } from "../harness/process.ts";
import { type Target, waitReady } from "../harness/product.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { collectTexts, type Texts } from "./texts.ts";
import { PlacementWatch } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

/** The least part of the time in which texts are made that experts are on the move. */
const movingShareMin = 0.1;

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

test("apply gives a Ready deployment of three workers within 30 s on a warm machine, and a streamed answer", async () => {
  const started = Date.now();
  moe = await deploy(target, "e2e-serving", smolMoe("smol", { experts: { memoryPerRank: "1Gi" } }));
  const seconds = (Date.now() - started) / 1000;
  assert.ok(seconds <= 30, `Ready after ${seconds} s`);
  const answer = await ask({ url: await moe.url(), model: "smol", prompt: "What is the capital of France?" });
  assert.match(answer.text, /\w/);
  assert.ok(answer.chunks > 1, "the answer came in one piece");
  assert.equal(answer.usage?.completion_tokens !== undefined, true);
});

test("with one worker the twenty prompts give the same text alone and with batch mates", async () => {
  await moe.kubectl.run(["scale", "moed/smol", "--replicas=1"]);
  await waitReady(moe.kubectl, "smol");
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
  const watch = new PlacementWatch(moe);
  try {
    await until("the placement to be seen", () => watch.latest, { timeoutMs: 10_000 });
    const { epoch } = watch;
    // An aggressive planner under this load: every window may move.
    const trigger = { imbalancePercent: 101, window: "2s", minTokens: 200 };
    await patchRebalancing(moe, "smol", { mode: "Auto", interval: "1s", trigger });
    const from = Date.now();
    assert.deepEqual(await collectTexts(moe.url, "smol", 4), oneWorker);
    const share = watch.movingShare(from, Date.now());
    const committed = watch.plansSince(epoch).filter((plan) => plan.moves.length > 0 && watch.committedAt(plan.epoch) !== undefined);
    const moves = committed.reduce((total, plan) => total + plan.moves.length, 0);
    process.stderr.write(`# ${committed.length} plans with ${moves} moves, under way for ${Math.round(share * 100)}% of the time\n`);
    assert.ok(moves > 0 && share >= movingShareMin, `${moves} moves, ${share} of the time`);
  } finally {
    await watch.close();
  }
});

test("conditions of a healthy deployment say so", async () => {
  const moed = await moe.kubectl.get("moed", "smol");
  for (const type of ["Ready", "Available", "SpecAccepted", "ModelAvailable", "TelemetryFresh"]) {
    assert.equal(condition(moed, type)?.status, "True", `${type}: ${JSON.stringify(condition(moed, type))}`);
  }
  assert.equal(condition(moed, "Degraded")?.status, "False");
});

test("runtime pods hold no API token, in a namespace that enforces the restricted Pod Security level", async () => {
  const pods = await moe.kubectl.list("pods");
  assert.ok(pods.length >= 4);
  for (const pod of pods) {
    const mounts = pod.spec.containers.flatMap((container: any) => container.volumeMounts ?? []);
    assert.ok(!mounts.some((mount: any) => mount.mountPath.includes("serviceaccount")), pod.metadata.name);
  }
});
