// Bad input at every interface of the running product: a clear error, and what was running runs on.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { kubectlOf, serviceAddress, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { condition } from "../kit/kube/kubectl.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { patchSpec, workerUids } from "./steps.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;
let url = "";

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-refusals", smolMoe("strict", { replicas: 2 }));
  url = await moe.url();
});
after(async () => {
  if (moe) await remove(moe);
});

const post = (path: string, body: string): Promise<Response> =>
  fetch(`${url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body });

const chat = (fields: object): string =>
  JSON.stringify({ model: "strict", messages: [{ role: "user", content: "Hello" }], max_tokens: 4, ...fields });

const refusals: Readonly<Record<string, { body: string; status: number; says: RegExp }>> = {
  "malformed JSON": { body: '{"model": ', status: 400, says: /JSON/i },
  "an unknown model": { body: chat({ model: "gpt-5" }), status: 404, says: /gpt-5/ },
  "more tokens than the context holds": { body: chat({ max_tokens: 100_000 }), status: 400, says: /context/i },
  "a prompt longer than the context": {
    body: chat({ messages: [{ role: "user", content: "word ".repeat(3000) }] }),
    status: 400,
    says: /context/i,
  },
  "a negative temperature": { body: chat({ temperature: -1 }), status: 400, says: /temperature/ },
  "more answers than it gives": { body: chat({ n: 129 }), status: 400, says: /\bn\b/ },
  "messages that are no list": { body: chat({ messages: "hi" }), status: 400, says: /messages/ },
  "a body of 50 MB": { body: chat({ user: "x".repeat(50_000_000) }), status: 413, says: /large|bytes/i },
};

for (const [what, { body, status, says }] of Object.entries(refusals)) {
  test(`the gateway refuses ${what}`, async () => {
    const response = await post("/v1/chat/completions", body);
    const text = await response.text();
    assert.equal(response.status, status, text);
    assert.match(text, says);
  });
}

test("a client that goes away costs nothing", async () => {
  for (let i = 0; i < 5; i += 1) {
    const abort = new AbortController();
    const answer = ask({
      url,
      model: "strict",
      prompt: "Tell me a long story.",
      maxTokens: 200,
      signal: abort.signal,
      onToken: (_, n) => (n === 2 ? abort.abort() : undefined),
    });
    await assert.rejects(answer);
  }
  const after = await ask({ url, model: "strict", prompt: "Hello", maxTokens: 8 });
  assert.ok(after.chunks > 0);
});

test("the API server refuses an invalid spec with the reason", async () => {
  const bad = smolMoe("bad", { replicas: 9, elasticity: { minReplicas: 1, maxReplicas: 4 } });
  const refused = await moe.kubectl.try(["apply", "-f", "-"], JSON.stringify(bad));
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /replicas is above elasticity\.maxReplicas/);
});

test("kubectl scale outside the bounds is refused", async () => {
  const refused = await moe.kubectl.try(["scale", "moed/strict", "--replicas=9"]);
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /maxReplicas/);
});

test("an impossible memory budget is SpecAccepted=False and says what would fit", async () => {
  await moe.kubectl.apply(smolMoe("tight", { replicas: 2, experts: { memoryPerRank: "64Mi" } }));
  const moed = await moe.kubectl.waitFor(
    "moed",
    "tight",
    "SpecAccepted=False",
    (object) => condition(object, "SpecAccepted")?.status === "False",
    60_000,
  );
  const accepted = condition(moed, "SpecAccepted");
  assert.equal(accepted?.reason, "InsufficientExpertMemory");
  assert.match(accepted?.message ?? "", /raise memoryPerRank to .* or replicas to \d+/);
  await moe.kubectl.run(["delete", "moed", "tight", "--wait=false"]);
});

test("a gateway with API keys refuses requests without one, and serves those with one of them", async () => {
  const keys = ["key-one-0123456789", "key-two-0123456789"];
  await moe.kubectl.run(["create", "secret", "generic", "chat-api-key", `--from-literal=key=${keys.join("\n")}`]);
  await patchSpec(moe, { gateway: { apiKeySecretRef: { name: "chat-api-key" } } });
  await until(
    "the gateway that asks for keys",
    async () => {
      url = await moe.url();
      return (await post("/v1/chat/completions", chat({}))).status === 401 ? true : undefined;
    },
    { timeoutMs: 60_000, everyMs: 1_000 },
  );
  for (const apiKey of keys) assert.ok((await ask({ url, model: "strict", prompt: "Hello", maxTokens: 4, apiKey })).chunks > 0);
  await assert.rejects(ask({ url, model: "strict", prompt: "Hello", maxTokens: 4, apiKey: "key-three-012345678" }), { status: 401 });
  await moe.kubectl.run([
    "patch",
    "moed/strict",
    "--type=json",
    "-p",
    JSON.stringify([{ op: "remove", path: "/spec/gateway/apiKeySecretRef" }]),
  ]);
  await until(
    "the gateway that asks for none",
    async () => {
      url = await moe.url();
      return (await post("/v1/chat/completions", chat({}))).status === 200 ? true : undefined;
    },
    { timeoutMs: 60_000, everyMs: 1_000 },
  );
});

const badFields: Readonly<Record<string, { spec: object; says: RegExp; repair: object }>> = {
  "an unknown field of the gateway container": {
    spec: { gateway: { podTemplate: { spec: { containers: [{ name: "gateway", unheardOf: 1 }] } } } },
    says: /spec\.gateway\.podTemplate\.spec\.containers.*unheardOf/s,
    repair: { gateway: { podTemplate: null } },
  },
  "a priority class that cannot be": {
    spec: { podTemplate: { spec: { priorityClassName: "nope nope" } } },
    says: /spec\.podTemplate\.spec\.priorityClassName/,
    repair: { podTemplate: null },
  },
};
for (const [what, { spec, says, repair }] of Object.entries(badFields)) {
  test(`${what} stops no healing: a lost rank is replaced as it was, by a new leader too`, async () => {
    const hashes = async () =>
      new Set((await workerPods(moe.kubectl, "strict")).map((pod) => (pod.metadata.annotations as any)["enodia.dev/template-hash"]));
    const serving = (ranks: number) =>
      moe.kubectl.waitFor("moed", "strict", `${ranks} ranks to serve`, (one) => one.status?.availableReplicas === ranks, 120_000);
    const before = await hashes();
    await patchSpec(moe, spec);
    const refusedBy = (object: any) => {
      const accepted = condition(object, "SpecAccepted");
      return accepted?.status === "False" && says.test(accepted.message ?? "");
    };
    await moe.kubectl.waitFor("moed", "strict", "the field to be named", refusedBy, 30_000);
    const system = kubectlOf(target, systemNamespace);
    await system.run(["delete", "pods", "-l", "app.kubernetes.io/component=operator", "--wait=false"]);
    const [lost] = await workerPods(moe.kubectl, "strict");
    assert.ok(lost);
    await moe.kubectl.run(["delete", "pod", lost.metadata.name, "--wait=false"]);
    await until(
      "another pod in its place",
      async () => {
        const pods = await workerPods(moe.kubectl, "strict");
        const ready = (pod: any) => pod.status?.conditions?.some((one: any) => one.type === "Ready" && one.status === "True");
        return pods.length === 2 && pods.every((pod) => pod.metadata.uid !== lost.metadata.uid && ready(pod)) ? true : undefined;
      },
      { timeoutMs: 120_000, everyMs: 500 },
    );
    await serving(2);
    assert.deepEqual(await hashes(), before);
    url = await moe.url();
    assert.ok((await ask({ url, model: "strict", prompt: "Hello", maxTokens: 8 })).chunks > 0);
    const uids = await workerUids(moe);
    await patchSpec(moe, repair);
    await waitReady(moe.kubectl, "strict");
    assert.deepEqual(await workerUids(moe), uids, "its repair changes no pod");
  });
}

/** Everything that a deployment owns. ReplicaSets keep former pod templates, as those of every Deployment do. */
const ownedKinds = [
  "pods,services,secrets,serviceaccounts,configmaps,deployments,poddisruptionbudgets,networkpolicies",
  "controllerrevisions,expertplacements",
].join();
/** Nobody may wait longer for an answer than for a short one on a machine that runs two deployments. */
const unansweredMsMax = 15_000;

test("what an orphaning delete leaves answers until a deployment of the same name has taken over, and nothing of it stays", async () => {
  const { kubectl, name, namespace } = moe;
  const request = { model: name, prompt: "What is the capital of France?", maxTokens: 8 };
  const service = await serviceAddress(target, kubectl, { name, namespace });
  const { text } = await ask({ url: service.url, ...request });
  const [old, { clusterIP }] = [(await kubectl.get("moed", name)).metadata.uid ?? "", (await kubectl.get("service", name)).spec];
  const errors: string[] = [];
  const texts = new Set<string>();
  let longestMs = 0;
  let asking = true;
  const clients = (async () => {
    for (let last = Date.now(); asking; ) {
      const answer = await ask({ url: service.url, ...request }).catch((error: unknown) => void errors.push(String(error)));
      longestMs = Math.max(longestMs, Date.now() - last);
      if (answer) {
        last = Date.now();
        texts.add(answer.text);
      } else await sleep(200);
    }
  })();
  try {
    await kubectl.run(["delete", "moed", name, "--cascade=orphan"]);
    await sleep(3_000);
    assert.equal((await workerPods(kubectl, name)).length, 2, "they serve on without a MoEDeployment");
    await kubectl.apply(smolMoe(name, { replicas: 2 }));
    await until(
      "the pods of the old uid to be gone",
      async () => {
        const left = JSON.stringify(await kubectl.list("pods", `enodia.dev/deployment=${name}`));
        return left.includes(old) ? undefined : true;
      },
      { timeoutMs: 240_000, everyMs: 500 },
    );
    await waitReady(kubectl, name, 60_000);
  } finally {
    asking = false;
    await clients;
  }
  process.stderr.write(`# longest wait for an answer ${longestMs} ms, ${errors.length} requests failed: ${errors[0] ?? ""}\n`);
  assert.ok(longestMs <= unansweredMsMax, `${longestMs} ms without an answer: ${errors.join("; ")}`);
  assert.deepEqual([...texts], [text]);
  const moed = await kubectl.get("moed", name);
  assert.notEqual(moed.metadata.uid, old);
  assert.equal((await kubectl.get("service", name)).spec.clusterIP, clusterIP);
  const left = await kubectl.list(ownedKinds, `enodia.dev/deployment=${name}`);
  for (const object of left)
    assert.ok(!JSON.stringify(object).includes(old), `${object.kind} ${object.metadata.name}: ${JSON.stringify(object)}`);
  assert.equal(left.filter(({ kind }) => kind === "ControllerRevision").length, 1);
  assert.equal((await workerPods(kubectl, name)).length, 2);
  url = await moe.url();
  assert.equal((await ask({ url: service.url, ...request })).text, text);
});

test("after all that the deployment still answers", async () => {
  const answer = await ask({ url, model: "strict", prompt: "What is the capital of France?", maxTokens: 8 });
  assert.ok(answer.chunks > 0);
});
