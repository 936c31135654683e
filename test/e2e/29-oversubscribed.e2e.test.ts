// Ranks with half of the memory that the experts take: the texts stay those of ranks that hold all, through a killed worker and a
// smaller world, and no request fails.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { scrape, sum } from "../kit/kube/scrape.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { enodia, patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "tight";
/** 240 experts take about 360 MB. */
const memory = { experts: { memoryPerRank: "60Mi", oversubscription: "Allow" } };
const prompts = ["Tell me a long story about a lighthouse.", "Explain how bread is made.", "Write a loop in C.", "List the months."];

let target: Target;
let moe: Deployed;
let expected: readonly string[] = [];

/** Texts of all prompts at once, greedy and sampled. */
async function texts(onToken: () => void = () => {}): Promise<readonly string[]> {
  const url = await moe.url();
  const answers = prompts.map((prompt, i) =>
    ask({
      url,
      model,
      prompt,
      maxTokens: 32,
      temperature: i % 2 === 0 ? 0 : 0.9,
      seed: i,
      onToken: (_, count) => (count === 8 ? onToken() : undefined),
    }),
  );
  return (await Promise.all(answers)).map(({ text }) => text);
}

/** Loads that rows waited for, of all workers. */
async function misses(): Promise<number> {
  const pods = await workerPods(moe.kubectl, model);
  const samples = await Promise.all(pods.map(({ metadata }) => scrape(moe.kubectl, moe.namespace, metadata.name)));
  return samples.reduce((all, each) => all + sum(each, "enodia_expert_misses_total"), 0);
}

/** What the leading operator foresees and has measured, as the dashboard Experts and its alert read it: metric and kind. */
async function figures(): Promise<readonly string[]> {
  const system = kubectlOf(target, systemNamespace);
  const operators = await system.list("pods", "app.kubernetes.io/component=operator");
  const samples = await Promise.all(operators.map(({ metadata }) => scrape(system, systemNamespace, metadata.name)));
  const ours = samples.flat().filter(({ name, labels }) => name.startsWith("enodia_expert_miss_load") && labels.deployment === model);
  return ours.map(({ name, labels }) => `${name} ${labels.kind}`).sort();
}

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-oversubscribed", smolMoe(model));
  expected = await texts();
});
after(async () => {
  if (moe) await remove(moe);
});

test("without the field memory for half of the experts is refused, and the refusal names it", async () => {
  await patchSpec(moe, { experts: { memoryPerRank: "60Mi" } });
  const refused = await moe.kubectl.waitFor(
    "moed",
    model,
    "a refusal",
    (moed) => condition(moed, "SpecAccepted")?.status === "False",
    60_000,
  );
  assert.match(condition(refused, "SpecAccepted")?.message ?? "", /oversubscription/);
  assert.deepEqual(await texts(), expected);
});

test("with it the texts are the same, from memory for half of the experts", async () => {
  await patchSpec(moe, memory);
  const tight = (moed: KubeObject): boolean =>
    condition(moed, "ExpertsOversubscribed")?.status === "True" && moed.status.observedGeneration === moed.metadata.generation;
  await moe.kubectl.waitFor("moed", model, "ExpertsOversubscribed", tight, 240_000);
  await waitReady(moe.kubectl, model, 240_000);
  assert.deepEqual(await texts(), expected);
  assert.ok((await misses()) > 0);
  const seen = async (): Promise<true | undefined> => {
    assert.deepEqual(await texts(), expected); // the operator tells what it measured from 200 tokens on
    return (await figures()).length === 4 ? true : undefined;
  };
  await until("both kinds of both figures", seen, { timeoutMs: 120_000 });
  process.stderr.write(`${(await enodia(moe, "status", model)).replace(/^/gm, "# ")}\n`);
});

test("a worker killed in the middle of streams, and a world of two, change no text", async () => {
  const [first] = await workerPods(moe.kubectl, model);
  let killed: Promise<unknown> | undefined;
  const kill = (): void => {
    killed ??= moe.kubectl.run(["delete", "pod", first?.metadata.name ?? "", "--grace-period=0", "--force", "--wait=false"]);
  };
  assert.deepEqual(await texts(kill), expected);
  await killed;
  await moe.kubectl.run(["scale", `moed/${model}`, "--replicas=2"]);
  const two = ({ status }: KubeObject): boolean => status.availableReplicas === 2 && status.replicas === 2;
  await moe.kubectl.waitFor("moed", model, "two ranks", two, 240_000);
  assert.deepEqual(await texts(), expected);
});
