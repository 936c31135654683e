// The gateway's load as Prometheus text for an InferencePool's endpoint picker (DECISIONS.md 8).

export const poolMetricsType = "text/plain; version=0.0.4; charset=utf-8";

export interface PoolLoad {
  readonly model: string;
  /** Requests that no worker computes yet; `running` counts the others. */
  readonly waiting: number;
  readonly running: number;
  /** Share of the KV cache in use; undefined where no worker reported it. */
  readonly kvUse: number | undefined;
}

const kvHelp = "Share of the workers' attention cache that requests hold, from 0 to 1.";
const escaped = (text: string): string => text.replace(/[\\"]/g, (found) => `\\${found}`).replaceAll("\n", "\\n");

/** Omits unknown values, which a picker would take for zero. */
export function poolMetrics({ model, waiting, running, kvUse }: PoolLoad): string {
  const gauge = (name: string, help: string, value: number | undefined): string[] =>
    value === undefined ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, `${name}{model_name="${escaped(model)}"} ${value}`];
  const lines = [
    ...gauge("vllm:num_requests_waiting", "Requests that wait for a worker, or in its queue.", waiting),
    ...gauge("vllm:num_requests_running", "Requests that a worker computes.", running),
    ...gauge("vllm:kv_cache_usage_perc", kvHelp, kvUse),
    ...gauge("vllm:gpu_cache_usage_perc", kvHelp, kvUse), // the default of pickers before version 1.1
  ];
  return `${lines.join("\n")}\n`;
}
