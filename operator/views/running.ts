// Ranks and gateways from two scrapes of their metrics. A process that did not answer has no figures. Pure.
import type { MetricName } from "../../crds/metrics.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { percent, sumOf } from "./format.ts";
import type { PodFacts } from "./pods.ts";
import { type Sample, sumOfSamples } from "./prometheus-text.ts";
import { fixed, rankTable } from "./ranks.ts";
import { facts, message, type Section, strong } from "./section.ts";

export interface Scrape {
  /** Monotonic. */
  readonly atMs: number;
  readonly samples: readonly Sample[];
}

export interface ScrapedPod {
  readonly pod: PodFacts;
  /** Undefined where the pod did not answer. */
  readonly before: Scrape | undefined;
  readonly now: Scrape | undefined;
  /** Load over the mean, from the placement's status. */
  readonly loadPercent?: number | undefined;
}

type Labels = Readonly<Record<string, string>>;

const value = (scrape: Scrape | undefined, name: MetricName, labels: Labels = {}): number | undefined =>
  scrape && sumOfSamples(scrape.samples, name, labels);

/** Per second; undefined without both scrapes, or after a restart. */
export function rate({ before, now }: Pick<ScrapedPod, "before" | "now">, name: MetricName, labels: Labels = {}): number | undefined {
  const [first, last] = [value(before, name, labels), value(now, name, labels)];
  if (!before || !now || last === undefined || now.atMs <= before.atMs) return undefined;
  const grown = last - (first ?? 0);
  return grown < 0 ? undefined : (grown / (now.atMs - before.atMs)) * 1000;
}

export function rankFigures(top: ScrapedPod) {
  const { pod, now, loadPercent } = top;
  const blocks = (state: string) => value(now, "enodia_worker_kv_blocks", { state });
  const [used, all] = [blocks("used"), value(now, "enodia_worker_kv_blocks")];
  return {
    rank: pod.rank ?? -1,
    pod: pod.name,
    answers: now !== undefined,
    experts: value(now, "enodia_expert_hosted"),
    outputPerSecond: rate(top, "enodia_worker_tokens_total", { phase: "decode" }),
    promptPerSecond: rate(top, "enodia_worker_tokens_total", { phase: "prefill" }),
    active: value(now, "enodia_worker_requests_active"),
    queued: value(now, "enodia_worker_queue_requests"),
    kvPercent: used === undefined || !all ? undefined : Math.round((100 * used) / all),
    memoryBytes: value(now, "enodia_process_resident_memory_bytes"),
    cpus: rate(top, "enodia_process_cpu_seconds_total"),
    loadPercent,
  };
}

export type Running = ReturnType<typeof runningOf>;

export function runningOf(pods: readonly ScrapedPod[]) {
  const ranks = pods
    .filter(({ pod }) => pod.component === "worker")
    .map((scraped) => ({ ...rankFigures(scraped), state: stateOf(scraped) }))
    .sort((a, b) => a.rank - b.rank || a.pod.localeCompare(b.pod));
  const gateways = pods.filter(({ pod }) => pod.component === "gateway");
  const ofGateways = (metric: MetricName) => sumOf(gateways.map(({ now }) => value(now, metric)));
  return {
    ranks,
    outputPerSecond: sumOf(ranks.map(({ outputPerSecond }) => outputPerSecond)),
    promptPerSecond: sumOf(ranks.map(({ promptPerSecond }) => promptPerSecond)),
    gateways: {
      all: gateways.length,
      answering: gateways.filter(({ now }) => now).length,
      active: ofGateways("enodia_gateway_requests_active"),
      queued: ofGateways("enodia_gateway_queue_requests"),
      failovers: ofGateways("enodia_gateway_failovers_total"),
    },
  };
}

function stateOf({ pod, now }: ScrapedPod): string {
  if (pod.terminating) return "Terminating";
  if (pod.phase !== "Running") return pod.phase;
  if (!now) return "NoAnswer";
  return pod.ready ? "Ready" : "NotReady";
}

export function runningSections({ metadata, status }: MoEDeployment, running: Running): readonly Section[] {
  const { ranks, outputPerSecond, promptPerSecond, gateways } = running;
  const { placement, autoscale, conditions } = status;
  const scaling = conditions?.find(({ type }) => type === "ScalingActive");
  const rates = `  ${fixed(outputPerSecond, 1)} tokens/s, ${fixed(promptPerSecond, 1)} prompt tokens/s`;
  const balance = `  imbalance ${percent(placement?.imbalancePercent)} (bound ${percent(placement?.boundPercent)})`;
  const requests = `${fixed(gateways.active)} requests run, ${fixed(gateways.queued)} wait, ${fixed(gateways.failovers)} went on elsewhere`;
  const still = scaling?.status === "True" ? "" : "stands still, ";
  return [
    message(strong(`${metadata.namespace}/${metadata.name}`), rates, balance, `  epoch ${placement?.epoch ?? "-"}`),
    facts(
      ["Gateways", `${gateways.answering} of ${gateways.all} answer; ${requests} since their start`],
      ["Autoscale", scaling && `${autoscale?.progress ?? "-"}   ${still}${scaling.reason}`],
    ),
    rankTable(["rank", "pod", "state", "experts", "output", "prompt", "active", "queued", "kv", "memory", "cpus", "load"], ranks),
  ];
}
