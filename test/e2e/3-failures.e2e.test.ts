// Workers die in the middle of streams: a process, a pod, a node. Every stream ends with the text it would have had.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { killNode, startNode } from "../cluster/cluster.ts";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { type Answer, ask } from "../kit/gateway/openai-client.ts";
import { type Sample, scrape, sum } from "../kit/kube/scrape.ts";
import { exec, sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { holders, planOf, withoutLiveExpertReplica } from "./held.ts";
import { StallLog } from "./stalls.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "fragile";
/** Lost experts are live again within this time of the loss, or of its being declared. */
const aliveWithinMs = 15_000;
const maxTokens = 64;

let target: Target;
let moe: Deployed;
let url = "";
let expected: readonly string[] = [];
let log: StallLog;

const requests = [
  { prompt: "Tell me a long story about a lighthouse.", temperature: 0, seed: 1 },
  { prompt: "Explain how bread is made, step by step.", temperature: 0, seed: 2 },
  { prompt: "Write a letter to an old friend.", temperature: 0.9, seed: 3 },
  { prompt: "Describe a market in the morning.", temperature: 0.9, seed: 4 },
  { prompt: "List the months and say something about each.", temperature: 0, seed: 5 },
  { prompt: "Make up a recipe with apples.", temperature: 0.9, seed: 6 },
];

interface Streams {
  /** Settles when each has shown a few tokens, or all are done. */
  readonly begun: Promise<unknown>;
  readonly answers: Promise<Answer[]>;
  /** Streams that have not ended yet. */
  open(): number;
}

function startStreams(): Streams {
  const begun: Promise<void>[] = [];
  let open = requests.length;
  const answers = requests.map(async (request) => {
    let begin: () => void = () => undefined;
    begun.push(
      new Promise((done) => {
        begin = done;
      }),
    );
    try {
      return await ask({ url, model, maxTokens, ...request, onToken: (_, count) => (count === 4 ? begin() : undefined) });
    } finally {
      open -= 1;
    }
  });
  const all = Promise.all(answers);
  return { begun: Promise.race([Promise.all(begun), all]), answers: all, open: () => open };
}

/** Requests that the gateways took to another worker so far. */
async function failovers(): Promise<number> {
  const gateways = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=gateway`);
  const counts = gateways.map(async ({ metadata }) =>
    sum(await scrape(moe.kubectl, moe.namespace, metadata.name), "enodia_gateway_failovers_total"),
  );
  return (await Promise.all(counts)).reduce((a, b) => a + b, 0);
}

/** Metrics of the operator that leads, and its pod; a replica on a dead node is not waited for. */
async function leaderMetrics(): Promise<{ pod: string; samples: readonly Sample[] }> {
  const system = kubectlOf(target, systemNamespace);
  const pods = await system.list("pods", "app.kubernetes.io/component=operator");
  return Promise.any(
    pods.map(async ({ metadata: { name } }) => {
      const samples = await scrape(system, systemNamespace, name);
      if (sum(samples, "enodia_operator_leader") !== 1) throw new Error(`${name} does not lead`);
      return { pod: name, samples };
    }),
  );
}

const leaderPod = async (): Promise<string> => (await leaderMetrics()).pod;

const activeRanks = async (): Promise<number> => (await moe.kubectl.get("moed", model)).status?.expertParallel?.activeRanks ?? 0;

/** (layer, expert) pairs of the plan in effect that no worker process holds, by what the workers say of their memory. */
async function lostExperts(): Promise<number> {
  const plan = await planOf(moe);
  return withoutLiveExpertReplica(plan, await holders(moe, plan));
}

/** Milliseconds from `since` until experts that were lost are in memory again, all of them. */
async function expertsAliveAgain(since: number): Promise<number> {
  await until("the loss to be noticed", async () => ((await lostExperts()) > 0 || (await activeRanks()) < 3 ? true : undefined), {
    timeoutMs: 60_000,
    everyMs: 100,
  });
  await until(
    "every expert to be in memory",
    async () => {
      const lost = await lostExperts();
      if (lost > 0) throw new Error(`${lost} experts are in no memory`);
      return true;
    },
    { timeoutMs: 90_000, everyMs: 500 },
  );
  return Date.now() - since;
}

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-failures", smolMoe(model));
  url = await moe.url();
  expected = (await startStreams().answers).map((answer) => answer.text);
  log = new StallLog(moe);
});
after(async () => {
  log?.print();
  if (moe) await remove(moe);
});

async function victim(): Promise<{ pod: string; containerPid: number; node: string }> {
  const [pods, leader] = await Promise.all([workerPods(moe.kubectl, model), leaderPod()]);
  const gateways = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=gateway`);
  const operators = await kubectlOf(target, systemNamespace).list("pods", "app.kubernetes.io/component=operator");
  const leading = operators.find((pod) => pod.metadata.name === leader);
  // The victim is not on the gateway's node: a dead gateway loses its connections, which is documented. Nor is it on that of the
  // operator that leads: what its death costs is the next file's subject.
  const spared = new Set([...gateways, ...(leading ? [leading] : [])].map((pod) => pod.spec.nodeName));
  const pod = pods.find((each) => !spared.has(each.spec.nodeName));
  assert.ok(pod);
  const uid = pod.metadata.uid as string;
  const found = await exec("sh", ["-c", `grep -l ENODIA_POD_UID=${uid} /proc/[0-9]*/environ -a 2>/dev/null | cut -d/ -f3`]);
  const pid = Number(found.stdout.trim().split("\n")[0]);
  assert.ok(pid > 1, `process of pod ${pod.metadata.name} not found`);
  return { pod: pod.metadata.name, containerPid: pid, node: pod.spec.nodeName };
}

/**
 * Kills in the middle of all streams, which end with the text that they would have had. Resolves when the experts live again: to the
 * milliseconds since the kill, or since the loss was declared.
 */
async function strike(fault: string, kill: () => Promise<number>, declared?: Promise<number>): Promise<number> {
  await waitReady(moe.kubectl, model); // A test that failed may have left a rank short, for which streams wait.
  const before = await failovers();
  let alive: Promise<number> | undefined;
  await log.of(fault, async () => {
    const { begun, answers, open } = startStreams();
    await begun;
    const since = await kill();
    assert.equal(open(), requests.length, "some streams had ended before");
    alive = (declared ?? Promise.resolve(since)).then(expertsAliveAgain);
    alive.catch(() => {}); // awaited below
    const got = await answers;
    assert.deepEqual(
      got.map((answer) => answer.text),
      expected,
    );
    return Math.max(...got.flatMap(({ gapsMs }) => gapsMs));
  });
  assert.ok((await failovers()) > before, "no stream ran on what was killed");
  const ms = (await alive) ?? Number.POSITIVE_INFINITY;
  assert.ok(ms <= aliveWithinMs, `experts live after ${ms} ms`);
  return ms;
}

test("SIGKILL of a worker process: streams end with their text, no request fails, experts are live again", async () => {
  const { pod, containerPid } = await victim();
  const { uid } = (await moe.kubectl.get("pod", pod)).metadata;
  const ms = await strike("process killed", async () => {
    process.kill(containerPid, "SIGKILL");
    return Date.now();
  });
  assert.equal((await moe.kubectl.get("pod", pod)).metadata.uid, uid, "the kubelet restarts the process in the same pod");
  process.stderr.write(`# process killed: experts live after ${ms} ms\n`);
  await waitReady(moe.kubectl, model);
});

test("pod deleted with grace 0: the same", async () => {
  const { pod } = await victim();
  const ms = await strike("pod deleted", async () => {
    const killed = Date.now();
    await moe.kubectl.run(["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]);
    return killed;
  });
  process.stderr.write(`# pod deleted: experts live after ${ms} ms\n`);
  await waitReady(moe.kubectl, model);
});

test("node killed: streams end with their text, a replacement comes up on another node", async () => {
  const { node } = await victim();
  try {
    const declared = until("the loss to be declared", async () => ((await activeRanks()) < 3 ? Date.now() : undefined), {
      timeoutMs: 60_000,
      everyMs: 100,
    });
    declared.catch(() => {}); // awaited below
    const killed = async () => {
      await killNode(clusterName, node);
      return Date.now();
    };
    const ms = await strike("node killed", killed, declared);
    process.stderr.write(`# node killed: experts live ${ms} ms after the loss was declared\n`);
    await waitReady(moe.kubectl, model);
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
