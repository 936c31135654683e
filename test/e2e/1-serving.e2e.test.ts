// Serving from kubectl apply to tokens; and the same request gives the same text with 1 and 3 workers, with other batch mates,
// while experts move. Gateways are scaled by whoever may scale them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, waitReady } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { condition } from "../kit/kube/kubectl.ts";
import { until } from "../kit/processes/process.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { patchSpec } from "./steps.ts";
import { collectTexts, type Texts } from "./texts.ts";
import { PlacementWatch } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

/** The least part of the time in which texts are made that experts are on the move. */
const movingShareMin = 0.1;
const readySecondsMax = 30;

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

test("apply gives a Ready deployment of three workers within 30 s on a warm machine, and a streamed answer", async (t) => {
  const readySeconds = async (): Promise<number> => {
    const started = Date.now();
    moe = await deploy(target, "e2e-serving", smolMoe("smol", { experts: { memoryPerRank: "1Gi" } }));
    const seconds = (Date.now() - started) / 1000;
    t.diagnostic(`Ready after ${seconds} s`);
    return seconds;
  };
  let seconds = await readySeconds();
  if (seconds > readySecondsMax) {
    // The cluster may have been made a minute ago: this start has warmed it, and the next one is judged.
    await remove(moe);
    seconds = await readySeconds();
  }
  assert.ok(seconds <= readySecondsMax, `Ready after ${seconds} s`);
  const answer = await ask({ url: await moe.url(), model: "smol", prompt: "What is the capital of France?" });
  assert.match(answer.text, /\w/);
  assert.ok(answer.chunks > 1, "the answer came in one piece");
  assert.equal(answer.usage?.completion_tokens !== undefined, true);
});

test("gateways mount no claim: a rank has given them the tokenizer", async () => {
  const gateways = await moe.kubectl.list("pods", "enodia.dev/component=gateway");
  assert.ok(gateways.length > 0);
  for (const { spec } of gateways)
    assert.ok(
      spec.volumes.every((volume: object) => !("persistentVolumeClaim" in volume)),
      JSON.stringify(spec.volumes),
    );
});

test("with one worker the twenty prompts give the same text alone and with batch mates", async () => {
  await moe.kubectl.run(["scale", "moed/smol", "--replicas=1"]);
  await waitReady(moe.kubectl, "smol");
  oneWorker = await collectTexts(moe.url, "smol", 1);
  assert.equal(new Set(oneWorker.greedy).size, 20, "prompts must give different texts, or equality proves nothing");
  assert.deepEqual(await collectTexts(moe.url, "smol", 8), oneWorker);
});

test("with three workers the texts are those of one worker", async () => {
  await moe.kubectl.run(["scale", "moed/smol", "--replicas=3"]);
  await waitReady(moe.kubectl, "smol");
  assert.deepEqual(await collectTexts(moe.url, "smol", 6), oneWorker);
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
    assert.deepEqual(await collectTexts(moe.url, "smol", 6), oneWorker);
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

const front = "smol-gateway";
const replicas = async (): Promise<number> => (await moe.kubectl.get("deployment", front)).spec.replicas;
const patchGateway = (gateway: object) => patchSpec(moe, { gateway });

/** Has the operator go over the whole deployment a few times: each pass makes again what was deleted before it. */
async function passes(): Promise<void> {
  for (let pass = 0; pass < 3; pass += 1) {
    await moe.kubectl.run(["delete", "pdb", "smol-workers"]);
    await until("the budget to be back", async () => (await moe.kubectl.try(["get", "pdb", "smol-workers"])).code === 0 || undefined, {
      timeoutMs: 30_000,
    });
  }
}

test("gateways whose number the spec leaves open stay as kubectl scale has them", async () => {
  await patchGateway({ replicas: null });
  await passes();
  assert.equal(await replicas(), 1, "a number that is taken out of the spec stays");
  await moe.kubectl.run(["scale", `deployment/${front}`, "--replicas=3"]);
  await moe.kubectl.waitFor("deployment", front, "3 gateways to be ready", (one) => one.status?.readyReplicas === 3, 120_000);
  await passes();
  const { spec, status } = await moe.kubectl.get("deployment", front);
  assert.deepEqual([spec.replicas, status.readyReplicas], [3, 3]);
  const moed = await moe.kubectl.waitFor("moed", "smol", "the status", (one) => one.status?.gateway?.readyReplicas === 3, 15_000);
  assert.equal(moed.status.gateway.replicas, 3);
  assert.equal(condition(moed, "FieldConflict")?.status, "False");
  await moe.kubectl.run(["scale", `deployment/${front}`, "--replicas=1"]);
});

test("autoscale makes an autoscaler that has the number; without it the number stays", async () => {
  await patchGateway({ autoscale: { minReplicas: 2, maxReplicas: 3, targetCPUUtilizationPercentage: 70 } });
  await until("the autoscaler", async () => (await moe.kubectl.try(["get", "hpa", front])).code === 0 || undefined, { timeoutMs: 30_000 });
  const { spec } = await moe.kubectl.get("hpa", front);
  const [metric] = spec.metrics;
  assert.deepEqual([spec.minReplicas, spec.maxReplicas, spec.scaleTargetRef.name], [2, 3, front]);
  assert.deepEqual([metric.containerResource.container, metric.containerResource.target.averageUtilization], ["gateway", 70]);
  // The least number needs no metrics, which this cluster does not have.
  await until("its least number", async () => (await replicas()) === 2 || undefined, { timeoutMs: 90_000, everyMs: 1_000 });
  await passes();
  assert.equal(await replicas(), 2);
  const both = await moe.kubectl.try(["patch", "moed/smol", "--type=merge", "-p", '{"spec":{"gateway":{"replicas":1}}}']);
  assert.match(both.stderr, /replicas and autoscale exclude each other/);
  await patchGateway({ autoscale: null });
  await until("no autoscaler", async () => (await moe.kubectl.try(["get", "hpa", front])).code !== 0 || undefined, { timeoutMs: 30_000 });
  await passes();
  assert.equal(await replicas(), 2);
  await moe.kubectl.run(["scale", `deployment/${front}`, "--replicas=1"]);
});

/** Applies of disruption budgets that the API server has refused with a conflict so far. */
async function refusedApplies(): Promise<number> {
  const text = await moe.kubectl.run(["get", "--raw", "/metrics"]);
  const rows = text
    .split("\n")
    .filter((row) => row.startsWith("apiserver_request_total{") && row.includes('resource="poddisruptionbudgets"'));
  const conflicts = rows.filter((row) => row.includes('verb="APPLY"') && row.includes('code="409"'));
  return conflicts.reduce((sum, row) => sum + Number(row.slice(row.lastIndexOf(" ") + 1)), 0);
}

test("a field that another manages is named by a condition, and is not fought for", async () => {
  const patch = '{"spec":{"maxUnavailable":2}}';
  await moe.kubectl.run(["patch", "pdb", front, "--field-manager=other-team", "--type=merge", "-p", patch]);
  const conflicting = (want: string) => (one: Parameters<typeof condition>[0]) => condition(one, "FieldConflict")?.status === want;
  const moed = await moe.kubectl.waitFor("moed", "smol", "the conflict to be said", conflicting("True"), 30_000);
  const says = `PodDisruptionBudget ${front} stays as it is: .spec.maxUnavailable is managed by other-team; `;
  assert.ok(condition(moed, "FieldConflict")?.message?.startsWith(says), condition(moed, "FieldConflict")?.message);
  assert.equal(condition(moed, "Ready")?.status, "True");
  const before = await refusedApplies();
  assert.ok(before >= 1, "the API server counts what it refuses");
  await passes();
  const budget = await moe.kubectl.get("pdb", front);
  assert.equal(budget.spec.maxUnavailable, 2);
  // One more where the budget's own status has changed after the last try.
  const more = (await refusedApplies()) - before;
  assert.ok(more <= 1, `${more} more tries in 3 passes and more`);
  await moe.kubectl.run(["delete", "pdb", front]);
  await moe.kubectl.waitFor("moed", "smol", "the conflict to be over", conflicting("False"), 30_000);
  assert.equal((await moe.kubectl.get("pdb", front)).spec.maxUnavailable, 1);
});
