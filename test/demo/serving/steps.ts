// The serving demo: questions, a rebalance, a killed worker, scaling and half of the memory, on SmolLM2 upcycled to 8 experts. How long
// its steps should take is no check of theirs but an aim (times.ts).
import { join } from "node:path";
import { kubectlOf, provideNamespace, root, serviceAddress, type Target, waitReady, workerPods } from "../../kit/deployment/product.ts";
import { type Answer, ask } from "../../kit/gateway/openai-client.ts";
import { startLoad } from "../../kit/gateway/traffic-load.ts";
import { condition, type Kubectl, type KubeObject } from "../../kit/kube/kubectl.ts";
import { scrape, sum } from "../../kit/kube/scrape.ts";
import { hasSmolMoe, modelsFolder, provideSmolMoe } from "../../kit/models/local-models.ts";
import { sleep, until } from "../../kit/processes/process.ts";
import { nextLines } from "../next.ts";
import { type Demo, firstSteps, type Show, stepGiveUpMs } from "../show.ts";
import { bar, bold, cyan, dim, print } from "../view.ts";
import { timeRows } from "./times.ts";

interface ServingDemo extends Demo {
  /** Seconds from the apply to Ready, once that was seen. */
  readySeconds?: number;
  /** The time from the beginning of skewed load to a placement near its bound, once that was seen. */
  balancedSeconds?: number;
  kubectl?: Kubectl;
  url?: string;
}

const name = "smol-moe";
const balancedPercent = 115;

function ready(demo: ServingDemo): { target: Target; kubectl: Kubectl; url: string } {
  const { cluster: target, kubectl, url } = demo;
  if (!target || !kubectl || !url) throw new Error("an earlier step did not hold");
  return { target, kubectl, url };
}

async function importModel(demo: ServingDemo): Promise<string> {
  if (!demo.cluster) throw new Error("no cluster");
  await provideSmolMoe(demo.log, demo.signal);
  demo.kubectl = await provideNamespace(demo.cluster, demo.namespace, modelsFolder());
  return "SmolLM2-135M upcycled to 8 experts, top-2";
}

async function applySample(demo: ServingDemo): Promise<string> {
  const { cluster: target, kubectl } = demo;
  if (!target || !kubectl) throw new Error("an earlier step did not hold");
  const file = "crds/samples/smol-moe.yaml";
  print(dim(`  kubectl -n ${demo.namespace} apply -f ${file}`));
  const started = performance.now();
  await kubectl.run(["apply", "-f", join(root, file)]);
  await waitReady(kubectl, name, stepGiveUpMs);
  const seconds = (performance.now() - started) / 1000;
  demo.readySeconds = seconds;
  const address = await serviceAddress(target, kubectl, { name, namespace: demo.namespace });
  demo.closers.push(address.close);
  demo.url = address.url;
  print(await kubectl.run(["get", "moed,eplace,pods", "-o", "wide"]));
  return `Ready ${seconds.toFixed(1)} s after apply`;
}

async function askQuestions(demo: ServingDemo): Promise<string> {
  const { url } = ready(demo);
  let tokens = 0;
  let ms = 0;
  for (const prompt of ["What is the capital of France?", "Write two lines about the sea.", "Name three fruits."]) {
    process.stdout.write(`  ${bold(prompt)}\n  ${cyan("> ")}`);
    const answer = await ask({
      url,
      model: name,
      prompt,
      maxTokens: 48,
      signal: demo.signal,
      onToken: (text) => process.stdout.write(text.replaceAll("\n", "\n    ")),
    });
    if (answer.text.trim() === "") throw new Error(`no answer to "${prompt}"`);
    tokens += answer.usage?.completion_tokens ?? answer.chunks;
    ms += answer.totalMs;
    print(dim(`\n    ${answer.usage?.completion_tokens} tokens, first after ${answer.firstTokenMs.toFixed(0)} ms`));
  }
  return `${tokens} tokens, ${((tokens * 1000) / ms).toFixed(0)} tokens/s`;
}

interface Balance {
  readonly epoch: number;
  readonly imbalance: number | undefined;
  readonly bound: number | undefined;
  readonly last: { time: string; result: string; moves: number; bytes: number; durationMs: number } | undefined;
  readonly ranks: readonly { rank: number; loadPercent?: number }[];
}

async function balanceOf(kubectl: Kubectl): Promise<Balance> {
  const [moed, eplace] = await Promise.all([kubectl.get("moed", name), kubectl.get("eplace", name)]);
  const placement = moed.status?.placement ?? {};
  return {
    epoch: placement.epoch ?? 0,
    imbalance: placement.imbalancePercent,
    bound: placement.boundPercent,
    last: placement.lastRebalance,
    ranks: (eplace as KubeObject).status?.ranks ?? [],
  };
}

function showBalance(seconds: number, now: Balance): void {
  const ranks = now.ranks.map(
    (rank) => `${rank.rank} ${bar((rank.loadPercent ?? 0) / 100, 15)} ${String(rank.loadPercent ?? "-").padStart(3)}%`,
  );
  const imbalance = now.imbalance === undefined ? "  -" : (now.imbalance / 100).toFixed(2);
  print(
    `  ${seconds.toFixed(0).padStart(3)} s  epoch ${now.epoch}  worst layer ${imbalance} (bound ${((now.bound ?? 100) / 100).toFixed(2)})  ${ranks.join("  ")}`,
  );
}

async function rebalance(demo: ServingDemo): Promise<string> {
  const { kubectl, url } = ready(demo);
  const before = await balanceOf(kubectl);
  const load = startLoad({ url: () => url, model: name, clients: 6, topic: "code", signal: demo.signal });
  const started = performance.now();
  let worst = 0;
  let now = before;
  try {
    for (;;) {
      await sleep(3000, demo.signal);
      now = await balanceOf(kubectl);
      const seconds = (performance.now() - started) / 1000;
      showBalance(seconds, now);
      worst = Math.max(worst, now.imbalance ?? 0);
      const goal = Math.max(balancedPercent, Math.round((now.bound ?? 100) * 1.05));
      const moved = now.last !== undefined && now.last.time !== before.last?.time;
      if (moved && now.imbalance !== undefined && now.imbalance <= goal) {
        demo.balancedSeconds = seconds;
        break;
      }
      if (seconds * 1000 > stepGiveUpMs)
        throw new Error(`not balanced after ${seconds.toFixed(0)} s: worst layer ${now.imbalance}%, goal ${goal}%`);
    }
  } finally {
    await load.stop();
  }
  if (load.counts.failed > 0) throw new Error(`${load.counts.failed} requests failed: ${load.errors[0]}`);
  const last = now.last;
  print(dim(`  ${load.counts.requests} requests, ${load.counts.tokens} tokens, 0 failed`));
  return `worst layer ${(worst / 100).toFixed(2)} -> ${((now.imbalance ?? 0) / 100).toFixed(2)}; last plan ${last?.moves} moves, ${((last?.bytes ?? 0) / 1e6).toFixed(0)} MB, ${((last?.durationMs ?? 0) / 1000).toFixed(1)} s`;
}

/** The worker that computes a running request, by its own metrics. */
async function busyWorker(demo: ServingDemo, kubectl: Kubectl): Promise<string> {
  return until(
    "a worker with an active request",
    async () => {
      const pods = await workerPods(kubectl, name);
      const active = await Promise.all(
        pods.map(async (pod) => ({
          pod: pod.metadata.name,
          active: sum(await scrape(kubectl, demo.namespace, pod.metadata.name), "enodia_worker_requests_active"),
        })),
      );
      return active.find((each) => each.active > 0)?.pod;
    },
    { timeoutMs: 60_000, everyMs: 100, signal: demo.signal },
  );
}

async function killWorker(demo: ServingDemo): Promise<string> {
  const { kubectl, url } = ready(demo);
  const prompt = "Tell me a long story about a dragon who learns to bake bread.";
  const request = { url, model: name, prompt, maxTokens: 160, signal: demo.signal };
  const undisturbed = await ask(request);
  let begun: () => void = () => undefined;
  const streaming = new Promise<void>((done) => {
    begun = done;
  });
  let seen = 0;
  const disturbed: Promise<Answer> = ask({
    ...request,
    onToken: (text, count) => {
      seen = count;
      if (count === 5) begun();
      process.stdout.write(text);
    },
  });
  await Promise.race([streaming, disturbed]);
  const victim = await busyWorker(demo, kubectl);
  await kubectl.run(["delete", "pod", victim, "--grace-period=0", "--force", "--wait=false"]);
  print(bold(`\n  --- killed ${victim} after ${seen} tokens; the stream goes on ---`));
  const answer = await disturbed;
  print();
  if (answer.text !== undisturbed.text) throw new Error("the text differs from an undisturbed run");
  await waitReady(kubectl, name, stepGiveUpMs);
  const gap = Math.max(...answer.gapsMs);
  return `stream finished with the same ${answer.text.length} characters; longest pause ${(gap / 1000).toFixed(1)} s`;
}

async function scale(demo: ServingDemo): Promise<string> {
  const { kubectl, url } = ready(demo);
  const load = startLoad({ url: () => url, model: name, clients: 3, topic: "story", signal: demo.signal });
  const times: string[] = [];
  try {
    for (const replicas of [4, 2]) {
      const started = performance.now();
      print(dim(`  kubectl scale moed/${name} --replicas=${replicas}`));
      await kubectl.run(["scale", `moed/${name}`, `--replicas=${replicas}`]);
      await waitReady(kubectl, name, stepGiveUpMs);
      await until("the leaving pods to be gone", async () => ((await workerPods(kubectl, name)).length === replicas ? true : undefined), {
        timeoutMs: stepGiveUpMs,
        signal: demo.signal,
      });
      const seconds = ((performance.now() - started) / 1000).toFixed(0);
      times.push(`${replicas} in ${seconds} s`);
      print(`  ${replicas} ranks after ${seconds} s; ${load.counts.requests} requests so far, ${load.counts.failed} failed`);
    }
  } finally {
    await load.stop();
  }
  if (load.counts.failed > 0) throw new Error(`${load.counts.failed} requests failed: ${load.errors[0]}`);
  return `3 -> 4 -> 2 (${times.join(", ")}), ${load.counts.requests} requests, 0 failed`;
}

/** Ranks serve what their disk has, and keep in memory the half that tokens choose most. */
async function halveMemory(demo: ServingDemo): Promise<string> {
  const { kubectl, url } = ready(demo);
  const request = { url, model: name, prompt: "Explain how bread is made.", maxTokens: 48, signal: demo.signal };
  const { text } = await ask(request);
  const { spec, status } = await kubectl.get("moed", name);
  const memoryPerRank = `${Math.ceil(status.model.expertBytes / 2 / spec.replicas / 2 ** 20)}Mi`;
  const patch = JSON.stringify({ spec: { experts: { memoryPerRank, oversubscription: "Allow" } } });
  print(dim(`  kubectl patch moed/${name} --type=merge -p '${patch}'`));
  const load = startLoad({ url: () => url, model: name, clients: 3, topic: "story", signal: demo.signal });
  const said = (moed: KubeObject): string => condition(moed, "ExpertsOversubscribed")?.message ?? "";
  try {
    await kubectl.run(["patch", `moed/${name}`, "--type=merge", "-p", patch]);
    await waitReady(kubectl, name, stepGiveUpMs);
    const isMeasured = (moed: KubeObject): boolean => said(moed).includes("; measured: ");
    const measured = await kubectl.waitFor("moed", name, "loads to be measured", isMeasured, stepGiveUpMs);
    print(`  ExpertsOversubscribed: ${said(measured)}`);
    if ((await ask(request)).text !== text) throw new Error("the text differs from that of ranks that hold all experts");
  } finally {
    await load.stop();
  }
  if (load.counts.failed > 0) throw new Error(`${load.counts.failed} requests failed: ${load.errors[0]}`);
  return `${memoryPerRank} a rank, the same text; ${load.counts.requests} requests, 0 failed`;
}

const chat = { model: name, messages: [{ role: "user", content: "Why is the sky blue?" }], max_tokens: 64 };

export const serving: Show<ServingDemo> = {
  about: "serves a model, and shows experts move, a worker die, the deployment scale and half of its memory suffice, under traffic",
  namespace: "demo",
  makesModel: () => !hasSmolMoe(),
  makeModel: provideSmolMoe,
  steps: [
    ...firstSteps,
    { title: "Import the model", needed: true, run: importModel },
    { title: "Apply a MoEDeployment", needed: true, run: applySample },
    { title: "Ask it", needed: false, run: askQuestions },
    { title: "Skewed load: experts move", needed: false, run: rebalance },
    { title: "Kill a worker in mid-stream", needed: false, run: killWorker },
    { title: "Scale 3 -> 4 -> 2 under traffic", needed: false, run: scale },
    { title: "Half of the memory for experts", needed: false, run: halveMemory },
  ],
  times: ({ readySeconds, balancedSeconds }, machine) => timeRows({ readySeconds, balancedSeconds, machine }),
  files: () => [],
  next: ({ namespace, url }, cluster) =>
    nextLines({
      namespace,
      model: name,
      url,
      local: cluster.local?.name,
      kubectlFlags: kubectlOf(cluster, namespace).flags,
      request: { path: "/v1/chat/completions", body: chat },
      asked: ['npm run -s enodia -- chat --url "$ENDPOINT" "Why is the sky blue?"'],
      more: [
        `npm run -s enodia -- status -n ${namespace}`,
        `kubectl -n ${namespace} get moed,eplace,pods`,
        `kubectl -n ${namespace} scale moed/${name} --replicas=2`,
      ],
    }),
};
