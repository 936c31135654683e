// Another revision of a model, one that is not there, one that is slow, and another codec, under traffic: no request fails, every text is
// whole of one of the two models, and from the change on all are of the new one. What a green deployment cannot serve is rolled back without a trace
// in the answers, and what it serves too slowly, as a canary, with no more than its share of them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { serviceAddress, type Target, waitReady } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { twentyPrompts } from "../kit/gateway/topics.ts";
import { condition, type KubeObject } from "../kit/kube/kubectl.ts";
import { provideOtherSmolMoe } from "../kit/models/local-models.ts";
import { sleep } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { enodia, inPhase, patchSpec, workerUids } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const name = "revised";
const namespace = "e2e-revision";
/** Two worlds start one after the other, on slow nodes. */
const rollMs = 420_000;
const tokens = 24;
const prompts = twentyPrompts.slice(0, 8);

let target: Target;
let moe: Deployed;
let url = "";
/** Texts of the two revisions. */
let first: readonly string[] = [];
let second: readonly string[] = [];

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  await provideOtherSmolMoe((line) => void process.stderr.write(`# ${line}\n`));
  moe = await deploy(target, namespace, smolMoe(name, { replicas: 2 }));
  await moe.kubectl.waitFor("moed", name, "the first model to be whole", isOver("Complete"), 60_000);
  ({ url } = await serviceAddress(target, moe.kubectl, { name, namespace }));
});
after(async () => {
  if (moe) await remove(moe);
});

const isOver = (phase: string) => (moed: KubeObject) => inPhase(phase)(moed) && !moed.status.rollout.green;
const patch = (spec: object) => patchSpec(moe, spec);
const answer = async (prompt: string): Promise<string> => (await ask({ url, model: name, prompt, maxTokens: tokens, temperature: 0 })).text;
const textsNow = async (): Promise<string[]> => {
  const texts: string[] = [];
  for (const prompt of prompts) texts.push(await answer(prompt));
  return texts;
};
interface Answer {
  readonly prompt: number;
  readonly text: string;
}

/** Asks until told to end; two clients, each with the next request as soon as one has ended. */
function traffic() {
  const answers: Answer[] = [];
  const errors: string[] = [];
  let running = true;
  let next = 0;
  const client = async (): Promise<void> => {
    while (running) {
      const prompt = next++ % prompts.length;
      try {
        answers.push({ prompt, text: await answer(prompts[prompt] as string) });
      } catch (error) {
        errors.push(`${new Date().toISOString()} ${error}`);
      }
      await sleep(500);
    }
  };
  const all = [client(), client()];
  const end = async () => {
    running = false;
    await Promise.all(all);
    return { answers, errors };
  };
  return { end };
}

/** Each text is one of the two, and after the first of the last texts of its prompt none is of before. */
function assertOfOne(answers: readonly Answer[], from: readonly string[], to: readonly string[]): void {
  for (const { prompt, text } of answers)
    assert.ok(text === from[prompt] || text === to[prompt], `prompt ${prompt}: "${text}" is of neither`);
  assert.ok(
    answers.some(({ prompt, text }) => text === from[prompt]),
    "some were asked before the change",
  );
}

async function change(spec: object): Promise<{ readonly from: readonly string[]; readonly to: readonly string[] }> {
  const from = await textsNow();
  const clients = traffic();
  await sleep(3_000);
  await patch(spec);
  await moe.kubectl.waitFor("moed", name, "the change to be over", isOver("Complete"), rollMs);
  await waitReady(moe.kubectl, name);
  const { answers, errors } = await clients.end();
  const to = await textsNow();
  process.stderr.write(`# ${answers.length} answers, ${errors.length} failed\n`);
  assert.deepEqual(errors, []);
  assertOfOne(answers, from, to);
  return { from, to };
}

test("another revision of the model serves as a canary, then takes over, without a failed request or a mixed text", async () => {
  const canary = { ranks: 1, analysis: { bake: "15s", latencyPercent: 400, errorRatePercent: 10, minRequests: 3 } };
  const baked = moe.kubectl.waitFor(
    "moed",
    name,
    "the green deployment to bake",
    (moed) => moed.status?.rollout?.phase === "Baking",
    rollMs,
  );
  const { from, to } = await change({ model: { uri: "pvc://models/smol-moe-2" }, rolloutStrategy: { canary } });
  assert.match((await baked).status?.rollout?.message ?? "", /green deployment revised-[0-9a-f]{8} has 1 of 2 gateways since /);
  [first, second] = [from, to];
  for (const [i, text] of to.entries())
    assert.notEqual(text, from[i], "the two revisions say different things, or equality proves nothing");
  assert.match(await enodia(moe, "rollout", "history", name), /pvc:\/\/models\/smol-moe-2 \(q4_0\)/);
});

test("a revision that is slow as a canary is rolled back by its latency", async () => {
  const were = await workerUids(moe);
  const clients = traffic();
  const limits = { cpu: "300m" };
  const slow = { containers: [{ name: "runtime", resources: { limits, requests: { cpu: "50m" } } }] };
  const canary = { ranks: 1, analysis: { bake: "10m", latencyPercent: 130, minRequests: 3 } };
  await patch({ model: { uri: "pvc://models/smol-moe" }, podTemplate: { spec: slow }, rolloutStrategy: { canary } });
  const moed = await moe.kubectl.waitFor("moed", name, "a roll back", isOver("RolledBack"), rollMs);
  assert.equal(moed.status?.rollout?.rolledBack?.reason, "LatencyExceeded");
  const { answers, errors } = await clients.end();
  process.stderr.write(`# ${moed.status?.rollout?.rolledBack?.message}; ${answers.length} answers, ${errors.length} failed\n`);
  assert.deepEqual(errors, []);
  assertOfOne(answers, second, first);
  assert.deepEqual(await workerUids(moe), were);
  await enodia(moe, "rollout", "undo", name);
  await patch({ rolloutStrategy: { canary: null } });
  await moe.kubectl.waitFor("moed", name, "the spec to be accepted", isOver("Complete"), rollMs);
  assert.deepEqual(await textsNow(), second);
});

test("a revision that is not there is rolled back, and nobody notices", async () => {
  const from = await textsNow();
  const were = await workerUids(moe);
  const clients = traffic();
  await patch({ model: { uri: "pvc://models/missing" } });
  const moed = await moe.kubectl.waitFor("moed", name, "a roll back", isOver("RolledBack"), rollMs);
  assert.match(condition(moed, "SpecAccepted")?.message ?? "", /a green deployment tried, was rolled back to revision \d+: /);
  await enodia(moe, "rollout", "undo", name);
  await moe.kubectl.waitFor("moed", name, "the spec to be accepted", isOver("Complete"), rollMs);
  const { answers, errors } = await clients.end();
  assert.deepEqual(errors, []);
  for (const { prompt, text } of answers) assert.equal(text, from[prompt]);
  assert.deepEqual(await workerUids(moe), were);
});

test("another codec takes the same way", async () => {
  await change({ runtime: { expertCodec: "f32" }, experts: { memoryPerRank: "800Mi" } });
});
