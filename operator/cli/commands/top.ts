// `enodia top`: scrapes a deployment's pods twice through the API server's proxy. Needs `get` on pods/proxy.
import { AppError, labels, ports } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { resources } from "../../kube/kube.ts";
import { type PodFacts, podFactsOf } from "../../views/pods.ts";
import { parseSamples } from "../../views/prometheus-text.ts";
import { type Running, runningOf, runningSections, type Scrape } from "../../views/running.ts";
import { argument, declare } from "../command.ts";
import { type ClusterAccess, objectOf, openCluster } from "../kube.ts";
import { asksForJson, clusterOptions, outputOptions, watchOption } from "../options.ts";
import { sectionsText } from "../table.ts";
import { show } from "../watch.ts";

/** Between the first two scrapes. */
const betweenMs = 1_000;
const scrapeMsMax = 3_000;
const scrapesAtOnce = 16;
const deploymentsMax = 16;

export const command = declare({
  about:
    'The ranks of a MoEDeployment, or of all in a namespace, as they run, from the metrics of their pods, which are read twice: experts that each has, tokens and prompt tokens a second, requests that run and wait, use of the attention cache (KV), memory of the process, CPUs that it uses, and its load over the mean in the worst layer. "-" is not known: the pod does not answer, or its load was not reported yet.',
  arguments: [argument("[name]", "a MoEDeployment", { moeDeployments: "" })],
  options: { ...clusterOptions, ...outputOptions, ...watchOption },
  async action(options, name) {
    const json = asksForJson(options);
    const cluster = openCluster(options);
    const lookers = new Map<string, () => Promise<Look>>();
    const make = async (): Promise<string> => {
      const all = name === undefined ? await namesIn(cluster) : [name];
      const names = all.slice(0, deploymentsMax);
      for (const each of names) if (!lookers.has(each)) lookers.set(each, looker(cluster, each));
      const looks = await Promise.all(names.flatMap((each) => lookers.get(each)?.() ?? []));
      if (json) return JSON.stringify(looks.map(forPrograms));
      if (looks.length === 0) return `no MoEDeployment in namespace ${cluster.namespace}`;
      const left = all.length - names.length;
      const more = left > 0 ? [`${left} more are not shown; name one of them`] : [];
      return [...looks.map(({ deployment, running }) => sectionsText(runningSections(deployment, running))), ...more].join("\n\n");
    };
    return show(make, { json, again: options.watch });
  },
});

async function namesIn({ kube, namespace }: ClusterAccess): Promise<string[]> {
  const { items } = await kube.list(resources.moeDeployments, { namespace });
  return items.map(({ metadata }) => metadata.name);
}

const forPrograms = ({ deployment: { metadata }, running }: Look): object => ({
  name: metadata.name,
  namespace: metadata.namespace,
  ranks: running.ranks,
});

interface Look {
  readonly deployment: MoEDeployment;
  readonly running: Running;
}

/** Each look compares with the one before. */
function looker(cluster: ClusterAccess, name: string): () => Promise<Look> {
  let before: ReadonlyMap<string, Scrape> | undefined;
  return async () => {
    const ref = { namespace: cluster.namespace, name };
    const [object, plan, listed] = await Promise.all([
      objectOf(cluster.kube, resources.moeDeployments, ref),
      cluster.kube.get(resources.expertPlacements, ref),
      cluster.kube.list(resources.pods, { namespace: ref.namespace, labelSelector: `${labels.deployment}=${name}` }),
    ]);
    const pods = listed.items.flatMap((pod) => podFactsOf(pod) ?? []);
    const loads = new Map(plan ? parseExpertPlacement(plan).status.ranks?.map(({ rank, loadPercent }) => [rank, loadPercent]) : []);
    if (!before) {
      before = await scrapeAll(cluster, pods);
      await new Promise((resolve) => setTimeout(resolve, betweenMs));
    }
    const now = await scrapeAll(cluster, pods);
    const former = before;
    before = now;
    const rows = pods.map((pod) => ({
      pod,
      before: former.get(pod.name),
      now: now.get(pod.name),
      loadPercent: pod.rank === undefined ? undefined : loads.get(pod.rank),
    }));
    return { deployment: parseMoEDeployment(object), running: runningOf(rows) };
  };
}

async function scrapeAll(cluster: ClusterAccess, pods: readonly PodFacts[]): Promise<Map<string, Scrape>> {
  const found = new Map<string, Scrape>();
  const queue = pods.filter(({ phase }) => phase === "Running").values();
  const refused: AppError[] = [];
  const work = async (): Promise<void> => {
    for (const pod of queue) {
      try {
        found.set(pod.name, await scrape(cluster, pod));
      } catch (caught) {
        const error = AppError.from(caught);
        if (error.code === "Forbidden") refused.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: scrapesAtOnce }, work));
  const [first] = refused;
  // A silent pod is shown as such; a missing right is an error.
  if (first) throw new AppError(`${first.message}; enodia top needs get on pods/proxy`, { code: "Forbidden", cause: first });
  return found;
}

async function scrape({ transport }: ClusterAccess, { namespace, name }: PodFacts): Promise<Scrape> {
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}:${ports.metrics}/proxy/metrics`;
  const text = await transport.request({ method: "GET", path, signal: AbortSignal.timeout(scrapeMsMax) });
  return { atMs: performance.now(), samples: parseSamples(text) };
}
