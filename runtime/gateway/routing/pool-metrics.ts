// The load of a gateway as Prometheus text for the endpoint picker of an InferencePool (DECISIONS.md 8). Pure.

export const poolMetricsType = "text/plain; version=0.0.4; charset=utf-8";

export interface PoolLoad {
  readonly model: string;
  /** Requests inside the gateway that no worker computes yet, and those that one does. */
  readonly waiting: number;
  readonly running: number;
  /** Share of the workers' attention cache that requests hold; undefined where no worker told. */
  readonly kvUse: number | undefined;
}

const kvHelp = "Share of the workers' attention cache that requests hold, from 0 to 1.";
const escaped = (text: string): string => text.replace(/[\\"]/g, (found) => `\\${found}`).replaceAll("\n", "\\n");

/** A figure that is not known is left out: a picker must not take it for none. */
export function poolMetrics({ model, waiting, running, kvUse }: PoolLoad): string {
  const gauge = (name: string, help: string, value: number | undefined): string[] =>
    value === undefined ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, `${name}{model_name="${escaped(model)}"} ${value}`];
  const lines = [
    ...gauge("vllm:num_requests_waiting", "Requests that wait for a worker, or in its queue.", waiting),
    ...gauge("vllm:num_requests_running", "Requests that a worker computes.", running),
    ...gauge("vllm:kv_cache_usage_perc", kvHelp, kvUse),
    ...gauge("vllm:gpu_cache_usage_perc", kvHelp, kvUse), // the default of pickers before their version 1.1
  ];
  return `${lines.join("\n")}\n`;
}
