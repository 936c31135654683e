// Records the metrics of crds/metrics.ts and writes them as Prometheus or OpenMetrics text. An unknown name or a wrong label does not
// compile.
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Counter, Histogram, ObservableResult } from "@opentelemetry/api";
import { PrometheusSerializer } from "@opentelemetry/exporter-prometheus";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { AggregationTemporality, InstrumentType, MeterProvider, MetricReader } from "@opentelemetry/sdk-metrics";
import type { MetricDefinition, ProcessKind } from "../../crds/metric-definition.ts";
import { type DeploymentLabels, type MetricLabels, type MetricName, type MetricNameOf, metricTable } from "../../crds/metrics.ts";
import { sampledTraceId } from "./trace.ts";

/** Further series are folded into one; 1,000 deployments x 12 states fit. */
const seriesPerMetricMax = 20_000;
const nanosPerSecond = 1e9;
export const metricsContentType = "text/plain; version=0.0.4; charset=utf-8";
export const openMetricsContentType = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Readonly<Record<string, string>>;
type LabelArgs<L> = keyof L extends never ? [] : [labels: L];

export interface Metrics<P extends ProcessKind> {
  /** The amount is >= 0. */
  add<N extends MetricNameOf<P, "counter">>(name: N, amount: number, ...labels: LabelArgs<MetricLabels<P, N>>): void;
  set<N extends MetricNameOf<P, "gauge">>(name: N, value: number, ...labels: LabelArgs<MetricLabels<P, N>>): void;
  unset<N extends MetricNameOf<P, "gauge">>(name: N, ...labels: LabelArgs<MetricLabels<P, N>>): void;
  observe<N extends MetricNameOf<P, "histogram">>(name: N, value: number, ...labels: LabelArgs<MetricLabels<P, N>>): void;
  /** OpenMetrics shows the newest sampled trace of each bucket. */
  observeTraced<N extends MetricNameOf<P, "histogram">>(
    traceparent: string,
    name: N,
    value: number,
    ...labels: LabelArgs<MetricLabels<P, N>>
  ): void;
  /** Returns the removal of the callback. */
  onCollect(callback: () => void): () => void;
  /** Starts a deployment's counters at zero, so that rates and alerts see the first increase. */
  track(deployment: DeploymentLabels): void;
  /** Drops its gauges. */
  forget(deployment: DeploymentLabels): void;
  text(): Promise<string>;
  openMetrics(): Promise<string>;
  close(): Promise<void>;
}

export interface MetricsOptions<P extends ProcessKind> {
  readonly process: P;
  readonly version: string;
  /** namespace, deployment, rank; empty in the operator. */
  readonly constants?: Labels;
  /** The model for which the metrics of vllmNames are told a second time, under vLLM's names. */
  readonly vllmModel?: string;
}

/** What autoscalers and dashboards made for vLLM ask for. */
const vllmNames: Readonly<Partial<Record<MetricName, string>>> = {
  enodia_gateway_queue_requests: "vllm:num_requests_waiting",
  enodia_gateway_requests_active: "vllm:num_requests_running",
  enodia_gateway_time_to_first_token_seconds: "vllm:time_to_first_token_seconds",
  enodia_gateway_inter_token_seconds: "vllm:inter_token_latency_seconds",
  enodia_gateway_request_duration_seconds: "vllm:e2e_request_latency_seconds",
};

class PullReader extends MetricReader {
  constructor() {
    super({
      // Cumulative readers would keep unset gauges.
      aggregationTemporalitySelector: (type) =>
        type === InstrumentType.OBSERVABLE_GAUGE ? AggregationTemporality.DELTA : AggregationTemporality.CUMULATIVE,
      cardinalitySelector: () => seriesPerMetricMax,
    });
  }
  protected override async onForceFlush(): Promise<void> {}
  protected override async onShutdown(): Promise<void> {}
}

export function createMetrics<P extends ProcessKind>(options: MetricsOptions<P>): Metrics<P> {
  // The class accepts any name and labels; the interface narrows them.
  return new OtelMetrics(options) as Metrics<P>;
}

class OtelMetrics {
  readonly #process: ProcessKind;
  readonly #provider: MeterProvider;
  readonly #reader = new PullReader();
  readonly #serializer: PrometheusSerializer;
  readonly #counters = new Map<string, Counter>();
  readonly #histograms = new Map<string, Histogram>();
  readonly #gauges = new Map<string, Map<string, { labels: Labels; value: number }>>();
  readonly #exemplars = new Map<string, Exemplar>();
  readonly #constants: Labels;
  readonly #vllmModel: string | undefined;
  readonly #callbacks = new Set<() => void>();
  readonly #loopDelay = monitorEventLoopDelay({ resolution: 10 });
  #cpuSeconds = 0;

  constructor(options: MetricsOptions<ProcessKind>) {
    this.#process = options.process;
    const constants = options.constants ?? {};
    this.#constants = constants;
    this.#vllmModel = options.vllmModel;
    this.#provider = new MeterProvider({ resource: resourceFromAttributes({ ...constants }), readers: [this.#reader] });
    const constantNames = Object.keys(constants);
    const pattern = constantNames.length > 0 ? new RegExp(`^(?:${constantNames.join("|")})$`) : undefined;
    this.#serializer = new PrometheusSerializer(undefined, false, pattern, true, true);
    for (const [name, definition] of definitions(this.#process)) this.#register(name, definition);
    if (this.#process !== "operator") this.#startCounters({}, () => true);
    else this.#startCounters({}, (definition) => definition.per === "process");
    this.#loopDelay.enable();
    this.#setGauge("enodia_build_info", 1, { version: options.version, node: process.version });
    this.#setGauge("enodia_process_start_timestamp_seconds", Date.now() / 1000 - process.uptime(), {});
  }

  add(name: string, amount: number, labels: Labels = {}): void {
    this.#counters.get(name)?.add(amount, labels);
  }

  set(name: string, value: number, labels: Labels = {}): void {
    this.#setGauge(name, value, labels);
  }

  unset(name: string, labels: Labels = {}): void {
    this.#gauges.get(name)?.delete(seriesKey(labels));
  }

  observe(name: string, value: number, labels: Labels = {}): void {
    this.#histograms.get(name)?.record(value, labels);
  }

  observeTraced(traceparent: string, name: string, value: number, labels: Labels = {}): void {
    this.observe(name, value, labels);
    const traceId = sampledTraceId(traceparent);
    if (traceId === undefined || !this.#histograms.has(name)) return;
    const definition = metricTable[name as MetricName];
    const le = "buckets" in definition ? definition.buckets.find((each) => value <= each) : undefined;
    const key = bucketKey(name, { ...this.#constants, ...labels, le: le?.toString() ?? "+Inf" });
    this.#exemplars.set(key, { traceId, value, atSeconds: Date.now() / 1000 });
  }

  onCollect(callback: () => void): () => void {
    this.#callbacks.add(callback);
    return () => this.#callbacks.delete(callback);
  }

  track(deployment: DeploymentLabels): void {
    this.#startCounters(
      { namespace: deployment.namespace, deployment: deployment.deployment },
      (definition) => definition.per === "deployment",
    );
  }

  forget(deployment: DeploymentLabels): void {
    for (const series of this.#gauges.values()) {
      for (const [key, { labels }] of series) {
        if (labels.namespace === deployment.namespace && labels.deployment === deployment.deployment) series.delete(key);
      }
    }
  }

  async text(): Promise<string> {
    this.#readProcess();
    for (const callback of this.#callbacks) callback();
    const { resourceMetrics } = await this.#reader.collect();
    const text = this.#serializer.serialize(resourceMetrics);
    const lines = text.split("\n").filter((line) => line !== "");
    const again = this.#vllmModel === undefined ? [] : lines.flatMap(vllmLine(this.#vllmModel));
    return `${[...lines, ...again].join("\n")}\n`;
  }

  async openMetrics(): Promise<string> {
    return openMetricsText(await this.text(), (bucket, labels) => this.#exemplars.get(bucketKey(bucket, labels)));
  }

  async close(): Promise<void> {
    this.#loopDelay.disable();
    await this.#provider.shutdown();
  }

  // Passing the unit would write UNIT lines, which text 0.0.4 lacks.
  #register(name: string, definition: MetricDefinition): void {
    const meter = this.#provider.getMeter("enodia");
    const description = definition.help;
    if (definition.type === "counter") this.#counters.set(name, meter.createCounter(name, { description }));
    else if (definition.type === "histogram") {
      const advice = { explicitBucketBoundaries: [...(definition.buckets ?? [])] };
      this.#histograms.set(name, meter.createHistogram(name, { description, advice }));
    } else {
      const series = new Map<string, { labels: Labels; value: number }>();
      this.#gauges.set(name, series);
      meter.createObservableGauge(name, { description }).addCallback((result: ObservableResult) => {
        for (const { labels, value } of series.values()) result.observe(value, labels);
      });
    }
  }

  #startCounters(base: Labels, matches: (definition: MetricDefinition) => boolean): void {
    for (const [name, definition] of definitions(this.#process)) {
      if (definition.type !== "counter" || !matches(definition)) continue;
      for (const labels of combinations(definition)) this.#counters.get(name)?.add(0, { ...base, ...labels });
    }
  }

  #setGauge(name: string, value: number, labels: Labels): void {
    this.#gauges.get(name)?.set(seriesKey(labels), { labels, value });
  }

  #readProcess(): void {
    const memory = process.memoryUsage();
    this.#setGauge("enodia_process_resident_memory_bytes", memory.rss, {});
    this.#setGauge("enodia_process_heap_used_bytes", memory.heapUsed, {});
    const usage = process.cpuUsage();
    const cpuSeconds = (usage.user + usage.system) / 1e6;
    this.add("enodia_process_cpu_seconds_total", Math.max(0, cpuSeconds - this.#cpuSeconds));
    this.#cpuSeconds = cpuSeconds;
    const quantiles = { "0.5": this.#loopDelay.percentile(50), "0.99": this.#loopDelay.percentile(99), "1": this.#loopDelay.max };
    const sampled = this.#loopDelay.count > 0;
    for (const [quantile, nanos] of Object.entries(quantiles)) {
      this.#setGauge("enodia_event_loop_delay_seconds", sampled ? nanos / nanosPerSecond : 0, { quantile });
    }
    this.#loopDelay.reset();
  }
}

/** A line again, under the name that vLLM has for its metric; none where it has none. */
function vllmLine(model: string): (line: string) => string[] {
  const label = `{model_name="${escapedLabel(model)}",`;
  return (line) => {
    const [, keyword = "", name = "", part = "", rest = ""] = /^(# \w+ )?(\w+?)(_bucket|_sum|_count)?([{ ].*)$/.exec(line) ?? [];
    const known = vllmNames[name as MetricName];
    return known === undefined ? [] : [`${keyword}${known}${part}${keyword === "" ? rest.replace("{", label) : rest}`];
  };
}

/** A value between the quotes of a label. */
export const escapedLabel = (text: string): string => text.replace(/[\\"]/g, (found) => `\\${found}`).replaceAll("\n", "\\n");

function definitions(kind: ProcessKind): [string, MetricDefinition][] {
  return Object.entries<MetricDefinition>(metricTable).filter(([, definition]) => definition.in.includes(kind));
}

/** None when a label is open. */
function combinations(definition: MetricDefinition): Labels[] {
  let rows: Labels[] = [{}];
  for (const [label, values] of Object.entries(definition.labels)) {
    if (values === "open") return [];
    rows = rows.flatMap((row) => values.map((value) => ({ ...row, [label]: value })));
  }
  return rows;
}

const bucketKey = (histogram: string, labels: Labels): string => `${histogram}\u0000${seriesKey(labels)}`;

function seriesKey(labels: Labels): string {
  return Object.keys(labels)
    .sort()
    .map((name) => `${name}=${labels[name]}`)
    .join("\u0000");
}

interface Exemplar {
  readonly traceId: string;
  readonly value: number;
  /** Unix seconds. */
  readonly atSeconds: number;
}

/** OpenMetrics from Prometheus text. `exemplarOf` is called per bucket with all labels, including `le`. */
function openMetricsText(text: string, exemplarOf: (histogram: string, labels: Labels) => Exemplar | undefined): string {
  const lines = text.split("\n").flatMap((line) => {
    if (line === "") return [];
    if (!line.startsWith("#")) return line.includes("_bucket{") ? withExemplar(line, exemplarOf) : line;
    const [, keyword, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    // Counter families drop `_total`; OpenMetrics allows no other comments or empty lines.
    return keyword === undefined ? [] : `# ${keyword} ${name.replace(/_total$/, "")} ${rest.replaceAll('"', '\\"')}`;
  });
  return `${lines.join("\n")}\n# EOF\n`;
}

function withExemplar(line: string, exemplarOf: (histogram: string, labels: Labels) => Exemplar | undefined): string {
  const [, histogram, list] = /^(\w+)_bucket\{(.*)\} \S+$/.exec(line) ?? [];
  if (histogram === undefined || list === undefined) return line;
  const labels = Object.fromEntries([...list.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name = "", value = ""]) => [name, value]));
  const exemplar = exemplarOf(histogram, labels);
  if (!exemplar) return line;
  return `${line} # {trace_id="${exemplar.traceId}"} ${exemplar.value} ${exemplar.atSeconds.toFixed(3)}`;
}
