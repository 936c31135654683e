// Twenty losses of a worker under traffic, one after another: its process is killed, its process is stopped, its node's link is cut.
// No request fails and no text changes; the longest stall of each is reported, with where its time went, beside the aim.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { cutLink, healLink } from "../cluster/cluster.ts";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { scrape, sum } from "../kit/kube/scrape.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { StallLog } from "./stalls.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "stalling";
const faultsCount = 20;
const clients = 3;
const everyMs = 2_000;
const tokens = 32;
/** A process that is stopped and a link that is cut come back after this: longer than what any stream is to wait, before a node is lost. */
const awayMs = 9_000;
const healthyWithinMs = 120_000;
/** Full requests after a fault, before the next: what stalled has ended, and lost experts are in memory again. */
const calmMs = 3 * everyMs;
const aimP95Ms = 5_000;

/** A rank that lost its node waits for it: on a node of the others it would be out of reach of the next cut. */
const onePerNode = {
  maxSkew: 1,
  topologyKey: "kubernetes.io/hostname",
  whenUnsatisfiable: "DoNotSchedule",
  labelSelector: { matchLabels: { "enodia.dev/deployment": model, "enodia.dev/component": "worker" } },
};

let target: Target;
let moe: Deployed;
let traffic: Traffic;
let log: StallLog;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-stalls", smolMoe(model, { podTemplate: { spec: { topologySpreadConstraints: [onePerNode] } } }));
  const url = await moe.url();
  log = new StallLog(moe);
  traffic = await startTraffic({ url: () => url, model, clients, everyMs, tokens });
});
after(async () => {
  await traffic?.stop();
  log?.print();
  if (moe) await remove(moe);
});

interface Victim {
  readonly uid: string;
  readonly node: string;
}

/** Nodes whose loss is another matter: a gateway that is cut off loses its connections, an operator its lease. */
async function sparedNodes(): Promise<ReadonlySet<string>> {
  const system = kubectlOf(target, systemNamespace);
  const operators = await system.list("pods", "app.kubernetes.io/component=operator");
  const leads = async (pod: string) => sum(await scrape(system, systemNamespace, pod).catch(() => []), "enodia_operator_leader") === 1;
  const leading = await Promise.all(operators.map(async (pod) => ((await leads(pod.metadata.name)) ? [pod] : [])));
  const gateways = await moe.kubectl.list("pods", `enodia.dev/deployment=${model},enodia.dev/component=gateway`);
  return new Set([...gateways, ...leading.flat()].map(({ spec }) => spec.nodeName as string));
}

async function victims(): Promise<readonly Victim[]> {
  return (await workerPods(moe.kubectl, model)).map(({ metadata, spec }) => ({ uid: metadata.uid ?? "", node: spec.nodeName as string }));
}

/** Each begins at once and resolves when it was rolled back; `turn` chooses among the victims. */
const faults: Readonly<Record<string, (turn: number) => Promise<void>>> = {
  "process killed": async (turn) => {
    const { uid } = at(await victims(), turn);
    const killed = await processOf(uid);
    process.kill(killed, "SIGKILL");
    // The kubelet waits longer with every restart, and the next fault may strike this pod.
    const restarted = async () => ((await processOf(uid).catch(() => killed)) === killed ? undefined : true);
    await until("the process to be started again", restarted, { timeoutMs: healthyWithinMs });
  },
  "process stopped": async (turn) => {
    const pid = await processOf(at(await victims(), turn).uid);
    process.kill(pid, "SIGSTOP");
    try {
      await sleep(awayMs);
    } finally {
      process.kill(pid, "SIGCONT");
    }
  },
  "link cut": async (turn) => {
    const spared = await sparedNodes();
    const { node } = at(
      (await victims()).filter((each) => !spared.has(each.node)),
      turn,
    );
    await cutLink(clusterName, node);
    try {
      await sleep(awayMs);
    } finally {
      await healLink(clusterName, node);
    }
  },
};

function at(all: readonly Victim[], turn: number): Victim {
  const chosen = all[turn % Math.max(1, all.length)];
  assert.ok(chosen, "there is a worker to strike");
  return chosen;
}

/** The longest wait for a token that ended after this time, once the deployment is whole and calm again. */
async function longestSince(struckAt: number): Promise<number> {
  await waitReady(moe.kubectl, model, healthyWithinMs);
  const answered = traffic.counts.requests;
  await until("other answers", () => (traffic.counts.requests >= answered + clients ? true : undefined), { timeoutMs: healthyWithinMs });
  await sleep(calmMs);
  return Math.max(0, ...traffic.gaps.filter((gap) => gap.at >= struckAt).map(({ ms }) => ms));
}

for (let n = 0; n < faultsCount; n++) {
  const kinds = Object.keys(faults);
  const fault = kinds[n % kinds.length] ?? "";
  test(`${n + 1} of ${faultsCount}, ${fault}: no request fails, no text changes`, async () => {
    const { longestMs } = await log.of(fault, async () => {
      const struckAt = Date.now();
      await faults[fault]?.(Math.floor(n / kinds.length));
      return longestSince(struckAt);
    });
    process.stderr.write(`# ${fault}: longest stall ${Math.round(longestMs)} ms\n`);
    traffic.assertWhole();
  });
}

test("the longest stalls, beside the aim", () => {
  const sorted = log.rows.map(({ longestMs }) => longestMs).sort((a, b) => a - b);
  const p95 = sorted[Math.ceil(sorted.length * 0.95) - 1] ?? 0;
  for (const kind of Object.keys(faults)) {
    const own = log.rows.filter(({ fault }) => fault === kind).map(({ longestMs }) => (longestMs / 1000).toFixed(1));
    process.stderr.write(`# ${kind}: longest stalls ${own.join(", ")} s\n`);
  }
  process.stderr.write(`# p95 of ${sorted.length} longest stalls: ${Math.round(p95)} ms, aim ${aimP95Ms} ms\n`);
  assert.equal(sorted.length, faultsCount);
});
