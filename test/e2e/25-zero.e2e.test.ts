// Zero ranks and back on the real cluster: the load stops, all ranks go, and those who ask then get the text that they got before. No
// request fails. The time to the first token from zero is printed.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "sleeps";
const autoscale = {
  min: 2,
  max: 2,
  metrics: [{ name: "kvUse", target: 90 }],
  scaleToZero: { idleAfter: "20s", holdTimeout: "5m" },
};
const prompt = { prompt: "Tell me of the sea.", maxTokens: 24, temperature: 0 };
/** Ranks go after the idle time, and their pods a drain later. */
const zeroWithinMs = 180_000;

let moe: Deployed;
let load: Load | undefined;

explainFailures(() => moe);
before(async () => {
  const spec = { replicas: undefined, elasticity: { settle: "1s", autoscale }, experts: { memoryPerRank: "400Mi" } };
  moe = await deploy(await openWorld(), "e2e-zero", smolMoe(name, spec));
});
after(async () => {
  await load?.stop();
  if (moe) await remove(moe);
});

const deployment = (): Promise<any> => moe.kubectl.get("moed", name);
const condition = async (type: string): Promise<any> => (await deployment()).status?.conditions?.find((one: any) => one.type === type);

test("the load stops, all ranks go, and whoever asks then gets the same text", { timeout: 900_000 }, async (t) => {
  await until("2 ranks", async () => ((await workerPods(moe.kubectl, name)).length === 2 ? true : undefined), { timeoutMs: zeroWithinMs });
  await waitReady(moe.kubectl, name, zeroWithinMs);
  const url = await moe.url();
  const known = await ask({ url, model: name, ...prompt });
  load = startLoad({ url: () => url, model: name, clients: 2, topic: "story", maxTokens: 16 });
  await until("some answers", async () => ((load?.counts.requests ?? 0) >= 4 ? true : undefined), { timeoutMs: zeroWithinMs });
  assert.equal((await deployment()).spec.replicas, 2, "ranks that are asked stay");
  await load.stop();
  await until("all ranks to be gone", async () => ((await workerPods(moe.kubectl, name)).length === 0 ? true : undefined), {
    timeoutMs: zeroWithinMs,
  });
  assert.equal((await deployment()).spec.replicas, 0);
  await until("it to say so", async () => ((await condition("Ready"))?.reason === "ScaledToZero" ? true : undefined), {
    timeoutMs: 60_000,
  });
  assert.equal((await condition("Available")).status, "True");
  assert.match((await deployment()).status.autoscale.lastScale.message, /no request since \S+Z, for 20s: replicas 2 -> 0$/);
  // One that streams and one that does not.
  const body = JSON.stringify({ model: name, max_tokens: 24, temperature: 0, messages: [{ role: "user", content: prompt.prompt }] });
  const whole = fetch(`${url}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
  const [streamed, response] = await Promise.all([ask({ url, model: name, ...prompt }), whole]);
  const answer: any = await response.json();
  assert.deepEqual([streamed.text, response.status, answer.choices?.[0]?.message.content], [known.text, 200, known.text]);
  t.diagnostic(
    `first token from zero after ${(streamed.firstTokenMs / 1000).toFixed(1)} s, with ranks after ${known.firstTokenMs.toFixed(0)} ms`,
  );
  await waitReady(moe.kubectl, name, zeroWithinMs);
  assert.equal((await deployment()).spec.replicas, 2);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});
