// A real Prometheus scrapes the cluster by the chart's monitors: every panel of the dashboards Fleet, Deployment and Experts has data
// under load, no alert fires while all is well, and each that a fault of minutes can bring about fires in that fault and in no other.
// The dashboard Training is 17-training's to see; alerts that take longer are evaluated by promtool (operator/dashboards).
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { telemetrySecretName } from "../../crds/telemetry-keys.ts";
import type { Asked } from "../kit/dashboards/expressions.ts";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { sleep, until } from "../kit/processes/process.ts";
import type { Prometheus } from "../kit/processes/prometheus.ts";
import { explainFailures } from "./diagnose.ts";
import { openPrometheus, questionsOf, unanswered } from "./prometheus-world.ts";
import { patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

/** Three windows of load, a plan, and what is measured after it. */
const seenWithinMs = 200_000;
const firesWithinMs = 150_000;
const lookEveryMs = 2_000;
const quietMs = 20_000;

/** The panels of the autoscaler need one; so many tokens it never asks for more ranks by. */
const autoscale = {
  min: 3,
  max: 4,
  metrics: ["queuedTokensPerRank", "tokensPerSecondPerRank"].map((metric) => ({ name: metric, target: 1_000_000 })),
};

const namespace = "e2e-metrics";
const name = "observed";
let target: Target;
let moe: Deployed;
let prometheus: Prometheus;
let load: Load;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(
    target,
    namespace,
    smolMoe(name, {
      // Applied replicas would be whose tool applies them.
      replicas: undefined,
      elasticity: { minReplicas: 1, maxReplicas: 4, settle: "1s", autoscale },
      rebalancing: { mode: "Auto", interval: "2s", trigger: { imbalancePercent: 101, window: "2s", minTokens: 200 } },
    }),
  );
  prometheus = await openPrometheus(target);
  const url = await moe.url();
  load = startLoad({ url: () => url, model: name, clients: 4, topic: "code" });
});
after(async () => {
  await load?.stop();
  await prometheus?.stop();
  if (moe) await remove(moe);
});

const ofOperator = () => kubectlOf(target, systemNamespace);
/** Questions that have an answer only in trouble; the faults below bring it. */
const onlyInTrouble = ["fleet: What is wrong", "fleet: annotation Another leader"];
/** Panels of ranks that serve more than they hold: 29-oversubscribed sees their metrics. */
const onlyOversubscribed = ["experts: Experts loaded for a token", "experts: Loads for a token"];
/** A histogram has no series before its first value, and no keys and values move here: 31-kv-moves has both. */
const onlyWithFetches = ["deployment: KV fetch time", "deployment: Time of a handover"];
const unseen = [...onlyInTrouble, ...onlyOversubscribed, ...onlyWithFetches];
const questions = (): Asked[] =>
  ["fleet", "deployment", "experts"].flatMap((dashboard) => questionsOf(dashboard, { namespace, deployment: name }));
const troubled = (where: string): Asked[] => questions().filter((question) => question.where === where);

/** The names of alerts that fire now. */
async function firing(): Promise<string[]> {
  const alerts = (await prometheus.alerts()).filter(({ state }) => state === "firing");
  for (const { annotations } of alerts) assert.doesNotMatch(Object.values(annotations).join(" "), /<no value>|error/i);
  return [...new Set(alerts.map(({ labels }) => labels.alertname ?? ""))].sort();
}

/** Waits until the alert fires, and sees that no other does that is not its consequence. */
async function fires(alert: string, consequences: readonly string[] = []): Promise<void> {
  const seen = await until(`${alert} to fire`, async () => ((await firing()).includes(alert) ? firing() : undefined), {
    timeoutMs: firesWithinMs,
  });
  assert.deepEqual(
    seen.filter((one) => one !== alert && !consequences.includes(one)),
    [],
    `while ${alert} fires`,
  );
}

const clear = (): Promise<true> =>
  until("no alert to fire", async () => ((await firing()).length === 0 ? true : undefined), { timeoutMs: firesWithinMs });

test("every pod that the chart's monitors name is scraped, each metric under the namespace and deployment that it brings", async () => {
  const pods = await moe.kubectl.list("pods", `enodia.dev/deployment=${name}`);
  const operators = await ofOperator().list("pods", "app.kubernetes.io/component=operator");
  const wanted = [...pods, ...operators].map(({ metadata }) => metadata.name).sort();
  const scraped = async (): Promise<true | undefined> => {
    const up = (await prometheus.targets()).filter(({ health }) => health === "up").map(({ labels }) => labels.pod);
    return wanted.every((pod) => up.includes(pod)) ? true : undefined;
  };
  await until(`targets ${wanted.join(", ")} to be up`, scraped, { timeoutMs: 60_000 });
  assert.deepEqual(await prometheus.query('{exported_namespace!=""}'), []);
  assert.deepEqual(await prometheus.query(`enodia_deployment_replicas{namespace="${systemNamespace}"}`), []);
});

test("every panel, variable and annotation of Fleet, Deployment and Experts has data under load", { timeout: 300_000 }, async () => {
  let open = questions().filter(({ where }) => !unseen.includes(where));
  assert.ok(open.length > 60);
  // Measured values go with each new plan and come with the next window: one look does not see everything.
  const end = Date.now() + seenWithinMs;
  while (open.length > 0 && Date.now() < end) {
    await sleep(lookEveryMs);
    open = await unanswered(prometheus, open);
  }
  assert.deepEqual(open, []);
  assert.equal(load.counts.failed, 0, load.errors[0]);
  // In the faults below it would stand still, and say so beside the alerts that they are about.
  await patchSpec(moe, { elasticity: { autoscale: null } });
  const gone = async () => ((await prometheus.query(`enodia_autoscale_ranks{deployment="${name}"}`)).length === 0 ? true : undefined);
  await until("the autoscaler to have no figures", gone, { timeoutMs: 60_000 });
});

test("no alert fires while all is well, and nothing is told to be wrong", { timeout: 120_000 }, async () => {
  await waitReady(moe.kubectl, name);
  await clear();
  await sleep(quietMs);
  assert.deepEqual(await prometheus.query(`max_over_time(ALERTS{alertstate="firing"}[${quietMs / 1000}s])`), []);
  assert.equal((await unanswered(prometheus, troubled("fleet: What is wrong"))).length, 1);
});

test("a worker that stands still: EnodiaRanksLost fires, and the table tells of it", { timeout: 400_000 }, async () => {
  const [pod] = await workerPods(moe.kubectl, name);
  const pid = await processOf(pod?.metadata.uid ?? "");
  process.kill(pid, "SIGSTOP");
  try {
    await fires("EnodiaRanksLost", ["EnodiaNotReady", "EnodiaTelemetryStale"]);
    assert.deepEqual(await unanswered(prometheus, troubled("fleet: What is wrong")), []);
  } finally {
    try {
      process.kill(pid, "SIGCONT");
    } catch {
      // its container has been replaced
    }
  }
  await waitReady(moe.kubectl, name, 240_000);
  await clear();
});

test("load that is not believed: EnodiaTelemetryStale fires and nothing else", { timeout: 400_000 }, async () => {
  const secret = telemetrySecretName(name);
  const { uid } = (await moe.kubectl.get("service", name)).metadata;
  // The operator takes no keys from a Secret of somebody else.
  const metadata = { ownerReferences: [{ apiVersion: "v1", kind: "Service", name, uid }] };
  await moe.kubectl.run(["patch", "secret", secret, "--type=merge", "-p", JSON.stringify({ metadata })]);
  try {
    await fires("EnodiaTelemetryStale");
  } finally {
    await moe.kubectl.run(["delete", "secret", secret]);
  }
  await clear();
});

test("no operator: EnodiaNoLeader fires and nothing else, while requests go on", { timeout: 400_000 }, async () => {
  const scale = (replicas: number) => ofOperator().run(["scale", "deployment/enodia", `--replicas=${replicas}`]);
  await scale(0);
  try {
    await fires("EnodiaNoLeader");
  } finally {
    await scale(2);
  }
  const changed = async () =>
    (await unanswered(prometheus, troubled("fleet: annotation Another leader"))).length === 0 ? true : undefined;
  await until("another leader to be seen", changed, { timeoutMs: 60_000 });
  await clear();
  assert.equal(load.counts.failed, 0, load.errors[0]);
});
