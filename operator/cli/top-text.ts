// The text of `enodia top`: ranks and gateways of a deployment as they run, from two scrapes of their metrics. Pure. A process that did not
// answer has no figures, which is not zero.
import type { MetricName } from "../../crds/metrics.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { PodFacts } from "../views/pods.ts";
import { type Sample, sumOf } from "./prometheus-text.ts";
import { bytes, percent, table } from "./table.ts";

export interface Scrape {
  /** Milliseconds of a clock that nobody sets. */
  readonly atMs: number;
  readonly samples: readonly Sample[];
}

export interface TopPod {
  readonly pod: PodFacts;
  /** The scrape before, and the last; undefined where the pod did not answer. */
  readonly before: Scrape | undefined;
  readonly now: Scrape | undefined;
  /** Its load over the mean, in percent, as the placement's status has it. */
  readonly loadPercent?: number | undefined;
}

export interface RankFigures {
  readonly rank: number;
  readonly pod: string;
  readonly answers: boolean;
  readonly experts: number | undefined;
  readonly outputPerSecond: number | undefined;
  readonly promptPerSecond: number | undefined;
  readonly active: number | undefined;
  readonly queued: number | undefined;
  /** Share of the attention cache that running requests hold, in percent. */
  readonly kvPercent: number | undefined;
  readonly memoryBytes: number | undefined;
  readonly cpus: number | undefined;
  readonly loadPercent: number | undefined;
}

type Labels = Readonly<Record<string, string>>;

const value = (scrape: Scrape | undefined, name: MetricName, labels: Labels = {}): number | undefined =>
  scrape && sumOf(scrape.samples, name, labels);

/** Growth of a counter a second; undefined where one of the two is missing, or the process began anew between them. */
export function rate({ before, now }: Pick<TopPod, "before" | "now">, name: MetricName, labels: Labels = {}): number | undefined {
  const [first, last] = [value(before, name, labels), value(now, name, labels)];
  if (!before || !now || last === undefined || now.atMs <= before.atMs) return undefined;
  const grown = last - (first ?? 0);
  return grown < 0 ? undefined : (grown / (now.atMs - before.atMs)) * 1000;
}

export function rankFigures(top: TopPod): RankFigures {
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

const figure = (of: number | undefined, digits = 0): string => (of === undefined ? "-" : of.toFixed(digits));

function stateOf(pod: PodFacts, answers: boolean): string {
  if (pod.terminating) return "Terminating";
  if (pod.phase !== "Running") return pod.phase;
  if (!answers) return "NoAnswer";
  return pod.ready ? "Ready" : "NotReady";
}

export function topText(deployment: MoEDeployment, pods: readonly TopPod[]): string {
  const { namespace, name } = deployment.metadata;
  const workers = pods.filter(({ pod }) => pod.component === "worker").map((top) => ({ top, figures: rankFigures(top) }));
  workers.sort((a, b) => a.figures.rank - b.figures.rank || a.figures.pod.localeCompare(b.figures.pod));
  const gateways = pods.filter(({ pod }) => pod.component === "gateway");
  const sum = (of: readonly (number | undefined)[]): number | undefined => {
    const known = of.filter((one) => one !== undefined);
    return known.length === 0 ? undefined : known.reduce((a, b) => a + b, 0);
  };
  const ofWorkers = (key: "outputPerSecond" | "promptPerSecond") => sum(workers.map(({ figures }) => figures[key]));
  const ofGateways = (metric: MetricName) => sum(gateways.map(({ now }) => value(now, metric)));
  const answered = gateways.filter(({ now }) => now).length;
  const { placement, autoscale, conditions } = deployment.status;
  const scaling = conditions?.find(({ type }) => type === "ScalingActive");
  return [
    `${namespace}/${name}   ${figure(ofWorkers("outputPerSecond"), 1)} tokens/s, ${figure(ofWorkers("promptPerSecond"), 1)} prompt tokens/s   imbalance ${percent(placement?.imbalancePercent)} (bound ${percent(placement?.boundPercent)})   epoch ${placement?.epoch ?? "-"}`,
    `gateways   ${answered} of ${gateways.length} answer; ${figure(ofGateways("enodia_gateway_requests_active"))} requests run, ${figure(ofGateways("enodia_gateway_queue_requests"))} wait, ${figure(ofGateways("enodia_gateway_failovers_total"))} went on elsewhere since their start`,
    ...(scaling
      ? [`autoscale  ${autoscale?.progress ?? "-"}   ${scaling.status === "True" ? "" : "stands still, "}${scaling.reason}`]
      : []),
    "",
    table(
      ["RANK", "POD", "STATE", "EXPERTS", "TOKENS/S", "PROMPT/S", "RUNNING", "WAITING", "KV", "MEMORY", "CPUS", "LOAD"],
      workers.map(({ top, figures }) => [
        String(figures.rank),
        figures.pod,
        stateOf(top.pod, figures.answers),
        figure(figures.experts),
        figure(figures.outputPerSecond, 1),
        figure(figures.promptPerSecond, 1),
        figure(figures.active),
        figure(figures.queued),
        percent(figures.kvPercent),
        bytes(figures.memoryBytes),
        figure(figures.cpus, 1),
        percent(figures.loadPercent),
      ]),
    ),
  ].join("\n");
}
