// `enodia status`: reads deployments and jobs and prints findings and states; for a named deployment also its ranks.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { offloadBytes } from "../../../crds/kv-offload.ts";
import { type StatusDetail, statusSections } from "../../views/deployment.ts";
import { type Judgement, judge } from "../../views/findings/index.ts";
import type { PodFacts } from "../../views/pods.ts";
import { expectedMemoryFormula, rankStates } from "../../views/ranks.ts";
import { argument, declare, flag } from "../command.ts";
import { columnsOf } from "../environment.ts";
import { countText, findingsText, overviewText } from "../findings-text.ts";
import { type ClusterAccess, openCluster } from "../kube.ts";
import { asksForJson, clusterOptions, outputOptions, watchOption } from "../options.ts";
import { type Gathered, gather, type Scope } from "../status-reads.ts";
import { sectionsText } from "../table.ts";
import { show } from "../watch.ts";

const columns = `  STATE, EPOCH    of the rank, and the newest plan it has committed
  EXPERTS BUDGET  bytes of experts it holds, and how many it may (experts.memoryPerRank)
  IN MEMORY       with experts.oversubscription Allow, in place of EXPERTS; then SERVED, bytes of all experts that it serves, and
                  what it loads for a token, measured and as predicted
  MEMORY          of the container, as the kubelet reports it; "-" where the node does not answer, or where you may not ask it
                  (the right \`get\` on nodes/proxy)
  EXPECTED <=     what MEMORY should stay below: ${expectedMemoryFormula}
  LOAD            rows of experts it computes, over the mean of the ranks, in the worst layer`;

export const command = declare({
  about:
    "Says what is wrong with the deployments and training jobs of a namespace, the worst first: why, with numbers, and the command to begin with. Then one line for each, or of one deployment its model, conditions, plan and ranks.",
  arguments: [argument("[name]", "a MoEDeployment", { moeDeployments: "" })],
  options: {
    ...clusterOptions,
    ...outputOptions,
    ...watchOption,
    allNamespaces: flag("-A, --all-namespaces", "of all namespaces"),
  },
  notes: `Columns of a deployment's ranks:
${columns}

example   enodia status -A --watch`,
  async action(options, name) {
    const all = options.allNamespaces;
    if (all && name !== undefined)
      throw new AppError("-A shows all namespaces: leave the name out, or name its namespace with -n", { code: "BadOption" });
    const json = asksForJson(options);
    const cluster = openCluster(options);
    const scope: Scope = { namespace: all ? undefined : cluster.namespace, name };
    const make = async (): Promise<string> => {
      const seen = await gather(cluster, scope);
      return json ? await jsonText(cluster, seen, scope) : await plainText(cluster, seen, scope);
    };
    return show(make, { json, again: options.watch });
  },
});

async function plainText(cluster: ClusterAccess, seen: Gathered, { name, namespace }: Scope): Promise<string> {
  const { deployments, jobs, unread } = seen;
  const where = namespace === undefined ? "all namespaces" : `namespace ${namespace}`;
  if (deployments.length === 0 && jobs.length === 0 && unread.length === 0)
    return `no MoEDeployment and no MoETrainingJob in ${where}${namespace === undefined ? "" : "; -A looks at all namespaces"}`;
  const judged = judge(seen);
  const wrong = findingsText(judged, unread, columnsOf());
  const above = judged.findings.map(({ why }) => why).join("\n");
  const whole = async () => (await details(cluster, seen)).map((detail) => sectionsText(statusSections(detail, above)));
  const rest = name === undefined ? [overviewText(seen), countText(seen, where)] : await whole();
  return [wrong, ...rest.filter((part) => part !== "")].join("\n\n");
}

async function jsonText(cluster: ClusterAccess, seen: Gathered, { name }: Scope): Promise<string> {
  const { findings, left }: Judgement = judge(seen);
  const deployments = name === undefined ? seen.deployments.map(({ deployment }) => ({ deployment })) : await details(cluster, seen);
  return JSON.stringify({ findings, findingsLeft: left, unread: seen.unread, deployments, trainingJobs: seen.jobs }, null, 2);
}

async function details(cluster: ClusterAccess, { deployments, workers }: Gathered): Promise<StatusDetail[]> {
  const memory = await containerMemory(cluster, workers);
  const pods = workers.map(({ rank = -1, name: pod, node = "-", phase, terminating }) => {
    return { rank, pod, node, state: terminating ? "Terminating" : phase, memoryBytes: memory.get(pod) };
  });
  pods.sort((a, b) => a.rank - b.rank || a.pod.localeCompare(b.pod));
  return deployments.map(({ deployment, placement }) => {
    const ranks = rankStates(pods, placement?.status.ranks, offloadBytes(deployment.spec.runtime));
    return { deployment, placement, ranks };
  });
}

const summarySchema = z.object({
  pods: z.array(
    z.object({
      podRef: z.object({ name: z.string(), namespace: z.string() }),
      containers: z.array(z.object({ name: z.string(), memory: z.object({ rssBytes: z.number().optional() }).optional() })).default([]),
    }),
  ),
});

/** Resident bytes of the `runtime` container by pod, without page cache; silent nodes are left out. */
async function containerMemory(cluster: ClusterAccess, pods: readonly PodFacts[]): Promise<Map<string, number>> {
  const nodes = new Set(pods.flatMap(({ node }) => node ?? []));
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
