// `enodia status`: gathers what a deployment is doing, rank by rank: pod, epoch, expert memory against budget, container memory, load.
// Reads the API server and the kubelets' summary through it; changes nothing. ../status-text.ts says it to a person.
import { parseArgs } from "node:util";
import { z } from "zod";
import { AppError, labels } from "../../../crds/common.ts";
import { type ExpertPlacement, parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { type ClusterAccess, kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { expectedMemory, expectedMemoryFormula, type RankRow, renderStatus, type StatusDetail } from "../status-text.ts";

const usage = `usage: enodia status [NAME] [options]

Shows the MoEDeployments of a namespace, or the one named: model, conditions and what is wrong, the plan, and per rank

  STATE, EPOCH    of the rank, and the newest plan it has committed
  EXPERTS BUDGET  bytes of experts it holds, and how many it may (experts.memoryPerRank)
  MEMORY          of the container, as the kubelet reports it; "-" where the node does not answer, or where you may not ask it
                  (the right \`get\` on nodes/proxy)
  EXPECTED <=     what MEMORY should stay below: ${expectedMemoryFormula}
  LOAD            rows of experts it computes, over the mean of the ranks, in the worst layer

${kubeFlagsHelp}
      --json             everything, for programs`;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { ...kubeFlags, json: { type: "boolean" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const cluster = openCluster(values);
  const [name] = positionals;
  const deployments = await readDeployments(cluster, name);
  const details = await Promise.all(deployments.map((deployment) => describe(cluster, deployment)));
  if (values.json) process.stdout.write(`${JSON.stringify(details, null, 2)}\n`);
  else if (details.length === 0) process.stdout.write(`no MoEDeployment in namespace ${cluster.namespace}\n`);
  else process.stdout.write(`${details.map(renderStatus).join("\n\n")}\n`);
  return 0;
}

async function readDeployments(cluster: ClusterAccess, name: string | undefined): Promise<MoEDeployment[]> {
  if (name === undefined) {
    const { items } = await cluster.kube.list(resources.moeDeployments, { namespace: cluster.namespace });
    return items.map(parseMoEDeployment);
  }
  const object = await cluster.kube.get(resources.moeDeployments, { namespace: cluster.namespace, name });
  if (object) return [parseMoEDeployment(object)];
  throw new AppError(`no MoEDeployment "${name}" in namespace ${cluster.namespace}; see: kubectl get moed -A`, { code: "NotFound" });
}

async function describe(cluster: ClusterAccess, deployment: MoEDeployment): Promise<StatusDetail> {
  const { name, namespace } = deployment.metadata;
  const [found, pods] = await Promise.all([
    cluster.kube.get(resources.expertPlacements, { namespace, name }),
    cluster.kube.list(resources.pods, { namespace, labelSelector: `${labels.deployment}=${name},${labels.component}=worker` }),
  ]);
  const placement = found ? parseExpertPlacement(found) : undefined;
  const memory = await containerMemory(cluster, pods.items);
  const ranks = pods.items.map((pod) => rankRow(pod, placement, memory)).sort((a, b) => a.rank - b.rank || a.pod.localeCompare(b.pod));
  return { deployment, placement, ranks };
}

const podSchema = z.object({
  metadata: z.object({ name: z.string(), labels: z.record(z.string(), z.string()).default({}), deletionTimestamp: z.string().optional() }),
  spec: z.object({ nodeName: z.string().optional() }).default({}),
  status: z.object({ phase: z.string().optional() }).default({}),
});

function rankRow(object: KubeObject, placement: ExpertPlacement | undefined, memory: ReadonlyMap<string, number>): RankRow {
  const pod = podSchema.parse(object);
  const rank = Number(pod.metadata.labels[labels.rank] ?? -1);
  const reported = placement?.status.ranks?.find((each) => each.rank === rank);
  const phase = pod.metadata.deletionTimestamp ? "Terminating" : (pod.status.phase ?? "Unknown");
  return {
    rank,
    pod: pod.metadata.name,
    node: pod.spec.nodeName ?? "-",
    state: phase === "Running" ? (reported?.state ?? phase) : phase,
    epoch: reported?.epoch,
    hostedBytes: reported?.hostedBytes,
    budgetBytes: reported?.budgetBytes,
    memoryBytes: memory.get(pod.metadata.name),
    memoryExpectedBytes: expectedMemory(reported ?? {}),
    loadPercent: reported?.loadPercent,
  };
}

const summarySchema = z.object({
  pods: z.array(
    z.object({
      podRef: z.object({ name: z.string(), namespace: z.string() }),
      containers: z.array(z.object({ name: z.string(), memory: z.object({ rssBytes: z.number().optional() }).optional() })).default([]),
    }),
  ),
});

/** Memory of the `runtime` container per pod, less what it read of files, which the kernel keeps as long as nobody wants the room: a
 *  working set may have the whole store in it once more. A node that does not answer leaves its pods without a figure. */
async function containerMemory(cluster: ClusterAccess, pods: readonly KubeObject[]): Promise<Map<string, number>> {
  const nodes = new Set(pods.flatMap((pod) => podSchema.parse(pod).spec.nodeName ?? []));
  const found = new Map<string, number>();
  const read = async (node: string): Promise<void> => {
    const text = await cluster.transport.request({ method: "GET", path: `/api/v1/nodes/${encodeURIComponent(node)}/proxy/stats/summary` });
    for (const pod of summarySchema.parse(JSON.parse(text)).pods) {
      const used = pod.containers.find((container) => container.name === "runtime")?.memory?.rssBytes;
      if (used !== undefined) found.set(pod.podRef.name, used);
    }
  };
  await Promise.allSettled([...nodes].map(read));
  return found;
}
