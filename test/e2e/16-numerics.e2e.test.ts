// A roll from one numerics class to another: the number type of the KV memory changes under load. While ranks of both run, the condition
// says so with the classes and their ranks; no request fails; afterwards the world is of one class again, the new one.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Target, waitReady } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { explainFailures } from "./diagnose.ts";
import { patchSpec } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "classes";
const runtime = { backend: "cpu", expertCodec: "q4_0", kvType: "f32", maxContext: 1024, kvPool: "256Mi" };

let target: Target;
let moe: Deployed;
let load: Load | undefined;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-numerics", smolMoe(name, { replicas: 2, runtime }));
});
after(async () => {
  await load?.stop();
  if (moe) await remove(moe);
});

const reproducible = (moed: KubeObject) => condition(moed, "Reproducible");
const isExact = (kvType: string) => (moed: KubeObject) => {
  const { status, message = "" } = reproducible(moed) ?? {};
  return status === "True" && message.includes(`KV ${kvType}`);
};

test("ranks on one kind of processor with one KV type are of one class", async () => {
  const moed = await moe.kubectl.waitFor("moed", name, "Reproducible", isExact("f32"), 30_000);
  assert.equal(reproducible(moed)?.reason, "Exact");
});

test("the KV type changes under load: a mixed world says which ranks are of which class, and no request fails", async () => {
  const url = await moe.url();
  load = startLoad({ url: () => url, model: name, clients: 2, topic: "code", maxTokens: 64 });
  await patchSpec(moe, { runtime: { kvType: "f16" } });
  const mixed = await moe.kubectl.waitFor("moed", name, "two classes", (moed) => reproducible(moed)?.reason === "MixedClasses", 180_000);
  assert.match(reproducible(mixed)?.message ?? "", /KV f32.*KV f16|KV f16.*KV f32/);
  await moe.kubectl.waitFor("moed", name, "one class again", isExact("f16"), 240_000);
  await waitReady(moe.kubectl, name, 120_000);
  await load.stop();
  assert.ok(load.counts.requests > 0);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("the new class answers alike on both ranks", async () => {
  const url = await moe.url();
  const request = { url, model: name, prompt: "Explain how bread is made.", maxTokens: 32, temperature: 0, seed: 1 };
  const [one, ...others] = await Promise.all(Array.from({ length: 6 }, () => ask(request)));
  for (const { text } of others) assert.equal(text, one?.text);
});
