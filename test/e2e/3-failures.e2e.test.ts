// Workers die in the middle of streams: a process, a pod, a node. Every stream ends with the text it would have had.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { killNode, startNode } from "../cluster/cluster.ts";
import { type Answer, ask } from "../harness/openai.ts";
import { exec, sleep, until } from "../harness/process.ts";
import { type Target, waitReady, workerPods } from "../harness/product.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "fragile";
/** Lost experts are live again within this time of the loss, or of its being declared. */
const aliveWithinMs = 15_000;
const maxTokens = 96;

let target: Target;
let moe: Deployed;
let url = "";
let expected: readonly string[] = [];

const requests = [
  { prompt: "Tell me a long story about a lighthouse.", temperature: 0, seed: 1 },
  { prompt: "Explain how bread is made, step by step.", temperature: 0, seed: 2 },
  { prompt: "Write a letter to an old friend.", temperature: 0.9, seed: 3 },
  { prompt: "Describe a market in the morning.", temperature: 0.9, seed: 4 },
  { prompt: "List the months and say something about each.", temperature: 0, seed: 5 },
  { prompt: "Make up a recipe with apples.", temperature: 0.9, seed: 6 },
];

/** Starts all streams and resolves `begun` when each has shown a few tokens. */
function startStreams(): { begun: Promise<unknown>; answers: Promise<Answer[]> } {
  const begun: Promise<void>[] = [];
  const answers = requests.map((request) => {
    let begin: () => void = () => undefined;
    begun.push(
      new Promise((done) => {
        begin = done;
      }),
    );
    return ask({ url, model, maxTokens, ...request, onToken: (_, count) => (count === 4 ? begin() : undefined) });
  });
  const all = Promise.all(answers);
  return { begun: Promise.race([Promise.all(begun), all]), answers: all };
}

/** Milliseconds until no expert lacks a live copy, by the deployment's own status. */
async function expertsAliveAgain(since: number): Promise<number> {
  await until(
    "every expert to be live",
    async () => {
      const moed = await moe.kubectl.get("moed", model);
      const degraded = moed.status.conditions.find((c: any) => c.type === "Degraded");
      if (degraded?.status === "False" && moed.status.expertParallel?.activeRanks >= 3) return true;
      throw new Error(JSON.stringify(degraded));
    },
    { timeoutMs: 90_000, everyMs: 300 },
  );
  return Date.now() - since;
}

before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-failures", smolMoe(model));
  url = await moe.url();
  expected = (await startStreams().answers).map((answer) => answer.text);
});
after(async () => {
  if (moe) await remove(moe);
});

async function victim(): Promise<{ pod: string; containerPid: number; node: string }> {
  const pods = await workerPods(moe.kubectl, model);
  const gateways = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=gateway`);
  const gatewayNodes = new Set(gateways.map((pod) => pod.spec.nodeName));
  // Not on the gateway's node: a dead gateway loses its connections, which is documented.
  const pod = pods.find((each) => !gatewayNodes.has(each.spec.nodeName)) ?? pods[0];
  assert.ok(pod);
  const uid = pod.metadata.uid as string;
  const found = await exec("sh", ["-c", `grep -l ENODIA_POD_UID=${uid} /proc/[0-9]*/environ -a 2>/dev/null | cut -d/ -f3`]);
  const pid = Number(found.stdout.trim().split("\n")[0]);
  assert.ok(pid > 1, `process of pod ${pod.metadata.name} not found`);
  return { pod: pod.metadata.name, containerPid: pid, node: pod.spec.nodeName };
}

test("SIGKILL of a worker process: streams end with their text, no request fails, experts are live again", async () => {
  const { begun, answers } = startStreams();
  await begun;
  const { pod, containerPid } = await victim();
  const killed = Date.now();
  process.kill(containerPid, "SIGKILL");
  assert.deepEqual(
    (await answers).map((answer) => answer.text),
    expected,
  );
  const restarted = await moe.kubectl.get("pod", pod);
  const ms = await expertsAliveAgain(killed);
  assert.ok(restarted.metadata.uid, "the pod is the same");
  process.stderr.write(`# process killed: experts live after ${ms} ms\n`);
  await waitReady(moe.kubectl, model);
});

test("pod deleted with grace 0: the same", async () => {
  const { begun, answers } = startStreams();
  await begun;
  const { pod } = await victim();
  const killed = Date.now();
  await moe.kubectl.run(["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]);
  assert.deepEqual(
    (await answers).map((answer) => answer.text),
    expected,
  );
  const ms = await expertsAliveAgain(killed);
  assert.ok(ms <= aliveWithinMs, `experts live after ${ms} ms`);
  await waitReady(moe.kubectl, model);
});

test("node killed: streams end with their text, a replacement comes up on another node", async () => {
  const { begun, answers } = startStreams();
  await begun;
  const { pod, node } = await victim();
  await killNode(clusterName, node);
  try {
    assert.deepEqual(
      (await answers).map((answer) => answer.text),
      expected,
    );
    await until(
      "the loss to be declared",
      async () =>
        (await workerPods(moe.kubectl, model)).some((each) => each.metadata.name === pod && !each.metadata.deletionTimestamp)
          ? undefined
          : true,
      { timeoutMs: 60_000 },
    );
    const declared = Date.now();
    const ms = await expertsAliveAgain(declared);
    assert.ok(ms <= aliveWithinMs, `experts live ${ms} ms after the loss was declared`);
    const nodes = (await workerPods(moe.kubectl, model))
      .filter((each) => each.status.phase === "Running")
      .map((each) => each.spec.nodeName);
    assert.ok(!nodes.includes(node), `a running pod is still on ${node}`);
  } finally {
    await startNode(clusterName, node);
  }
  await sleep(2000);
  await waitReady(moe.kubectl, model);
  assert.deepEqual(
    (await startStreams().answers).map((answer) => answer.text),
    expected,
  );
});
