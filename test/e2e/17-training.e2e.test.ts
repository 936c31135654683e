// A training job on the cluster: it trains in pods of its own image, on one rank and on three, outlives a killed pod, another number of
// ranks and a suspension with the bits of a quiet run on one, ends without pods for good, and its result is served.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gatewayAddress, type Target, waitReady } from "../kit/deployment/product.ts";
import { condition, type Kubectl, type KubeObject } from "../kit/kube/kubectl.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import type { Prometheus } from "../kit/processes/prometheus.ts";
import { openPrometheus, questionsOf, unanswered } from "./prometheus-world.ts";
import { enodia } from "./steps.ts";
import { isTraining, openTraining, stepOf, type TrainingObject, type TrainingWorld, worldIn as world } from "./training-world.ts";

const namespace = "e2e-training";
const steps = 1500;
/** From a job to its first pod, on a machine that others use. */
const checkMsMost = 30_000;
let training: TrainingWorld;
let target: Target;
let kubectl: Kubectl;
let prometheus: Prometheus;
const job = (name: string): TrainingObject => training.job(name, { steps, batch: { sequences: 8, microBatches: 4 } });
const digest = (name: string): string => training.digest(name);
const trainingPods = (name: string) => training.pods(name);
const podsGone = (name: string): Promise<true> => training.podsGone(name);
const complete = (name: string): Promise<KubeObject> => training.complete(name);
const cli = (...args: string[]) => enodia({ target, namespace }, "train", ...args);

before(async () => {
  training = await openTraining(namespace);
  ({ target, kubectl } = training);
  prometheus = await openPrometheus(target);
});
after(async () => {
  await prometheus?.stop();
  await training?.close();
});

test("a job whose pod is killed and that is suspended on its way ends with the bits of a quiet one, and without pods", {
  timeout: 600_000,
}, async () => {
  await kubectl.apply(job("quiet"));
  const quiet = await complete("quiet");
  assert.equal(quiet.status?.step, steps);
  assert.equal(quiet.status?.restarts, 0);
  const { startTime, check } = quiet.status as {
    readonly startTime: string;
    readonly check: { readonly fits: { readonly message: string } };
  };
  assert.match(check.fits.message, /^1 rank needs [\d.]+ GB .*; spec\.memoryPerRank is 1Gi$/);
  const checkedMs = Date.parse(startTime) - Date.parse(String(quiet.metadata.creationTimestamp));
  assert.ok(checkedMs <= checkMsMost, `checked for ${checkedMs} ms before its pod was made`);

  await kubectl.apply(job("disturbed"));
  await kubectl.waitFor("moet", "disturbed", "steps", (moet) => stepOf(moet) > 100, 120_000);
  const [first] = await trainingPods("disturbed");
  await kubectl.run(["delete", "pod", first?.metadata.name ?? "", "--grace-period=0", "--force"]);
  const at = stepOf(
    await kubectl.waitFor("moet", "disturbed", "another pod", (moet) => condition(moet, "Running")?.status === "True", 120_000),
  );
  await kubectl.waitFor("moet", "disturbed", "more steps", (moet) => stepOf(moet) > at + 100, 120_000);
  await kubectl.run(["patch", "moet", "disturbed", "--type=merge", "-p", '{"spec":{"suspend":true}}']);
  await kubectl.waitFor("moet", "disturbed", "it to be suspended", (moet) => condition(moet, "Suspended")?.status === "True", 60_000);
  await podsGone("disturbed");
  await kubectl.run(["patch", "moet", "disturbed", "--type=merge", "-p", '{"spec":{"suspend":false}}']);
  await complete("disturbed");
  assert.equal(digest("disturbed"), digest("quiet"));
  await podsGone("disturbed");
});

test("three ranks on three nodes outlive a killed one, a scale to two and back and a suspension, with the bits of a quiet run on one", {
  timeout: 900_000,
}, async () => {
  const name = "ranks";
  const own = job(name);
  const spread = {
    maxSkew: 1,
    topologyKey: "kubernetes.io/hostname",
    whenUnsatisfiable: "DoNotSchedule",
    labelSelector: { matchLabels: { "enodia.dev/training-job": name } },
  };
  const { podTemplate } = own.spec as { podTemplate: { spec: object } };
  const elastic = { replicas: 3, elasticity: { minReplicas: 1, maxReplicas: 3 } };
  const placed = { spec: { ...podTemplate.spec, topologySpreadConstraints: [spread] } };
  await kubectl.apply({ ...own, spec: { ...own.spec, ...elastic, podTemplate: placed } });
  const steady = (what: string, ranks: number, after: number): Promise<KubeObject> =>
    kubectl.waitFor(
      "moet",
      name,
      what,
      (moet) => isTraining(moet) && world(moet)?.ranks.length === ranks && (world(moet)?.epoch ?? 0) > after && stepOf(moet) > 0,
      180_000,
    );
  const moreSteps = async (moet: KubeObject): Promise<KubeObject> => {
    const at = stepOf(moet);
    return kubectl.waitFor("moet", name, "more steps", (one) => isTraining(one) && stepOf(one) > at + 60, 180_000);
  };
  const first = await moreSteps(await steady("three ranks to train", 3, 0));
  assert.equal(new Set(world(first)?.ranks.map(({ node }) => node)).size, 3);
  await traced(name, world(first)?.ranks.map(({ pod }) => pod) ?? []);
  const [, second] = world(first)?.ranks ?? [];
  process.kill(await processOf(second?.uid ?? ""), "SIGKILL");
  const replaced = await steady("another world", 3, world(first)?.epoch ?? 0);
  const uids = (moet: KubeObject) => world(moet)?.ranks.map(({ uid }) => uid) ?? [];
  assert.deepEqual([uids(replaced)[0], uids(replaced)[2]], [uids(first)[0], uids(first)[2]], "survivors stay");
  assert.notEqual(uids(replaced)[1], uids(first)[1]);
  await moreSteps(replaced);
  // Only the step in flight, which no survivor had made, is made again: one at most, where the newest checkpoint is up to 50 steps old.
  for (const uid of [0, 2].map((rank) => uids(replaced)[rank] ?? "")) {
    const begins = await training.beginsOf(name, uid);
    assert.ok(begins.length > 1, "a survivor says what it went on from");
    for (const { step, repeats } of begins) assert.equal(repeats, 0, `from step ${step}`);
  }
  const scale = (ranks: number) => kubectl.run(["scale", `moet/${name}`, `--replicas=${ranks}`]);
  await scale(2);
  const fewer = await moreSteps(await steady("two ranks", 2, world(replaced)?.epoch ?? 0));
  await scale(3);
  const again = await moreSteps(await steady("three ranks again", 3, world(fewer)?.epoch ?? 0));
  assert.equal(again.status?.restarts, 1, "the killed pod alone is a failure");
  await kubectl.run(["patch", "moet", name, "--type=merge", "-p", '{"spec":{"suspend":true}}']);
  await podsGone(name);
  await kubectl.run(["patch", "moet", name, "--type=merge", "-p", '{"spec":{"suspend":false}}']);
  await complete(name);
  assert.equal(digest(name), digest("quiet"));
  await podsGone(name);
});

/** A trace of a job that trains has as many steps of each of its pods as were asked for, and says where they took their time. */
async function traced(name: string, pods: readonly string[]): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "enodia-e2e-trace-"));
  try {
    const file = join(folder, "trace.json");
    const text = await cli("trace", name, "--steps", "3", "-o", file);
    assert.match(text, /steps \d+ to \d+ of 3 ranks; open it at https:\/\/ui\.perfetto\.dev/);
    assert.match(text, /^layer 1 +[\d.]+ /m);
    const { traceEvents } = JSON.parse(readFileSync(file, "utf8")) as {
      traceEvents: { readonly name: string; readonly pid: number; readonly cat?: string; readonly args: { readonly name?: string } }[];
    };
    const processes = traceEvents.filter(({ name: what }) => what === "process_name");
    assert.deepEqual(
      processes.map(({ args }) => args.name),
      pods.map((pod, rank) => `rank ${rank}, ${pod}`),
    );
    for (const { pid } of processes) {
      const cats = traceEvents.filter((event) => event.pid === pid).map(({ cat }) => cat);
      assert.equal(cats.filter((cat) => cat === "step").length, 3);
      for (const kind of ["compute", "dispatch", "meeting"]) assert.ok(cats.includes(kind), `${kind} of process ${pid}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test("every panel, variable and annotation of the dashboard Training has data, and no alert of jobs fires", {
  timeout: 120_000,
}, async () => {
  const asked = questionsOf("training", { training_namespace: namespace, training_job: "quiet|ranks" });
  // The killed pod of three ranks was replaced a while ago.
  const ever = asked.map(({ where, expr }) => ({ where, expr: `max_over_time((${expr})[30m:10s])` }));
  const missing = await unanswered(prometheus, ever);
  // The jobs have no validation data.
  assert.deepEqual(
    missing.map(({ expr }) => /enodia_training_\w+/.exec(expr)?.[0]),
    ["enodia_training_validation_loss"],
  );
  assert.deepEqual(await prometheus.query('ALERTS{alertname=~"EnodiaTraining.+"}'), []);
  const gauge = async (metric: string): Promise<number | undefined> =>
    (await prometheus.query(`enodia_training_${metric}{training_job="quiet"}`))[0]?.value;
  assert.deepEqual([await gauge("step"), await gauge("steps"), await gauge("active")], [steps, steps, 0]);
});

test("the command line draws the loss and serves the result", { timeout: 240_000 }, async () => {
  assert.match(await cli("status"), /quiet +Complete +1500\/1500 +100%/);
  assert.match(await cli("loss", "quiet"), /\*[\s\S]*1500 {2}step/);
  const manifest = JSON.parse(await cli("serve", "quiet", "--name", "served"));
  const runtime = { ...manifest.spec.runtime, backend: "cpu", maxContext: 64, kvPool: "16Mi" };
  await kubectl.apply({ ...manifest, spec: { ...manifest.spec, runtime, experts: { memoryPerRank: "64Mi" } } });
  await waitReady(kubectl, "served");
  const { url } = await gatewayAddress(target, kubectl, "served");
  const answer = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "served", prompt: "The experts", max_tokens: 8, temperature: 0 }),
  });
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  assert.ok(JSON.parse(text).usage.completion_tokens >= 1, text);
});

test("what cannot be trained is refused with the field and the remedy before it has a pod that trains", { timeout: 240_000 }, async () => {
  const cases = {
    "refused-data": {
      change: { data: { uri: "pvc://runs/nothing", sequenceLength: 16 } },
      want: /pvc:\/\/runs\/nothing\/index\.json: not found/,
    },
    "refused-size": {
      change: { memoryPerRank: "300Ki", replicas: 3, elasticity: { minReplicas: 1, maxReplicas: 3 } },
      want: /^rank 0 of 3: \d+ parameters x 8 bytes .*; the memory here is 0\.0003 GB.*; give more spec\.memoryPerRank/,
    },
  };
  for (const [name, { change, want }] of Object.entries(cases)) {
    const refused = job(name);
    await kubectl.apply({ ...refused, spec: { ...refused.spec, ...change } });
    const accepted = (moet: KubeObject) => condition(moet, "SpecAccepted");
    const moet = await kubectl.waitFor("moet", name, "the refusal", (one) => accepted(one)?.status === "False", 120_000);
    assert.match(accepted(moet)?.message ?? "", want);
    assert.deepEqual([moet.status?.startTime, moet.status?.replicas], [undefined, 0], "no pod that trains was made");
    await podsGone(name);
  }
});

test("pods that train outlive a change of their job that does not fit, which is refused beside them", { timeout: 300_000 }, async () => {
  const name = "changed";
  const long = job(name);
  await kubectl.apply({ ...long, spec: { ...long.spec, steps: 100_000 } });
  const checks = () => kubectl.list("pods", `enodia.dev/training-job=${name},enodia.dev/component=checker`);
  const trains = (moet: KubeObject): boolean => isTraining(moet) && stepOf(moet) > 20;
  const before = await kubectl.waitFor("moet", name, "steps", trains, 120_000);
  const [pod] = await trainingPods(name);
  await kubectl.run(["patch", "moet", name, "--type=merge", "-p", '{"spec":{"memoryPerRank":"300Ki"}}']);
  const refused = await kubectl.waitFor("moet", name, "the refusal", (one) => condition(one, "SpecAccepted")?.status === "False", 120_000);
  assert.equal(condition(refused, "SpecAccepted")?.reason, "DoesNotFit");
  const at = stepOf(refused);
  await kubectl.waitFor("moet", name, "more steps by the spec as it was", (one) => isTraining(one) && stepOf(one) > at, 60_000);
  assert.deepEqual(
    (await trainingPods(name)).map(({ metadata }) => metadata.uid),
    [pod?.metadata.uid],
  );
  assert.deepEqual(await checks(), []);
  assert.ok(stepOf(refused) >= stepOf(before));
  await kubectl.run(["delete", "moet", name]);
});
