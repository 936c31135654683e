// Three ranks. A worker's process is killed far into long streams: each ends with the text that it would have had,
// and what was said already is prefilled elsewhere, not replayed token by token. How long the streams stood still is reported.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, workerPods } from "../kit/deployment/product.ts";
import { type Answer, ask } from "../kit/gateway/openai-client.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { scrape, sum } from "../kit/kube/scrape.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "exact";
const maxTokens = 120;
/** Tokens that one stream has shown when a worker is killed. */
const struckAfterTokens = 80;
const requests = [
  { prompt: "Tell me a long story about a lighthouse.", temperature: 0, seed: 1 },
  { prompt: "Explain how bread is made, step by step.", temperature: 0, seed: 2 },
  { prompt: "Describe a market in the morning.", temperature: 0.9, seed: 4 },
];

let target: Target;
let moe: Deployed;
let expected: readonly Answer[] = [];

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-long", smolMoe(model));
  expected = await answers(() => undefined);
});
after(async () => {
  if (moe) await remove(moe);
});

/** The answers to all requests at once; `onToken` hears of each token how many its request has. */
async function answers(onToken: (request: number, count: number) => void): Promise<Answer[]> {
  const url = await moe.url();
  return Promise.all(requests.map((request, i) => ask({ url, model, maxTokens, ...request, onToken: (_, count) => onToken(i, count) })));
}

async function failovers(): Promise<number> {
  const gateways = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=gateway`);
  const counts = gateways.map(async ({ metadata }) =>
    sum(await scrape(moe.kubectl, moe.namespace, metadata.name), "enodia_gateway_failovers_total"),
  );
  return (await Promise.all(counts)).reduce((a, b) => a + b, 0);
}

test("the ranks say what they compute on", async () => {
  const { status } = await moe.kubectl.get("moed", model);
  const available = status.conditions.find(({ type }: { type: string }) => type === "ModelAvailable");
  assert.match(available.message, /on cpu: /);
  assert.ok(expected.every(({ text }) => text.length > 0));
});

/** The process of the worker that computes most streams. */
async function busiest(): Promise<number> {
  const workers = (await workerPods(moe.kubectl, model)).map(async ({ metadata }) => ({
    uid: metadata.uid ?? "",
    used: sum(await scrape(moe.kubectl, moe.namespace, metadata.name), "enodia_worker_kv_slots", { state: "used" }),
  }));
  const [first] = (await Promise.all(workers)).sort((a, b) => b.used - a.used);
  assert.ok(first && first.used > 0, "a worker computes a stream");
  return processOf(first.uid);
}

test("the worker of most streams killed far into them: no text changes, and what was said is prefilled, not replayed", async () => {
  const before = await failovers();
  let struck: Promise<void> | undefined;
  let struckAt = Number.POSITIVE_INFINITY;
  let longestMs = 0;
  const last = requests.map(() => Date.now());
  const strike = async (): Promise<void> => {
    const victim = await busiest();
    struckAt = Date.now();
    process.kill(victim, "SIGKILL");
  };
  const got = await answers((request, count) => {
    const now = Date.now();
    if (now > struckAt) longestMs = Math.max(longestMs, now - (last[request] as number));
    last[request] = now;
    if (count >= struckAfterTokens) struck ??= strike();
  });
  assert.ok(struck, "a stream came far enough");
  await struck;
  for (const [i, { text }] of got.entries()) assert.equal(text, expected[i]?.text);
  const moved = (await failovers()) - before;
  process.stderr.write(`# ${moved} streams went on at another worker; longest time between tokens ${longestMs} ms\n`);
  assert.ok(moved > 0, "a stream was cut");
});
