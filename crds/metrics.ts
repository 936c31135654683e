// Every metric the product exports: one table of names, types, units, help and labels. `runtime/observe/metrics.ts`
// registers from it, dashboards and alerts are tested against it. Pure data; records nothing itself.
//
// Label rules: a series of a runtime pod carries `namespace` and `deployment` (and `rank` on workers) as constants; the
// operator passes namespace and deployment itself on metrics `per: "deployment"`. No label is ever an expert or a layer:
// layer detail is aggregated as `layer_agg`, full vectors travel on NATS.

export type ProcessKind = "operator" | "gateway" | "worker";
export type MetricType = "counter" | "gauge" | "histogram";

/** Label values: a closed list, or `open` where code alone bounds them (reasons, status codes), never user input. */
export type LabelValues = readonly string[] | "open";

export interface MetricDefinition {
  readonly type: MetricType;
  readonly unit: "" | "seconds" | "bytes" | "ratio";
  readonly help: string;
  readonly in: readonly ProcessKind[];
  /** What one series describes; decides whether the operator must name the deployment. */
  readonly per: "process" | "deployment";
  readonly labels: Readonly<Record<string, LabelValues>>;
  readonly buckets?: readonly number[];
}

const everywhere = ["operator", "gateway", "worker"] as const;
const runtimePods = ["gateway", "worker"] as const;
const operator = ["operator"] as const;
const gateway = ["gateway"] as const;
const worker = ["worker"] as const;
const none = {} as const;

/** Seconds; from one token of a small model to a long answer. */
const latencyBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;
const workBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5] as const;
const moveBuckets = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600] as const;

const counter = "counter" as const;
const gauge = "gauge" as const;
const histogram = "histogram" as const;

const phase = ["prefill", "decode"] as const;
const endpoint = ["chat", "completions", "models", "other"] as const;
const shardSource = ["peer", "store"] as const;

/** The table. Adding a metric = one entry here; recording an unknown name or label does not compile. */
export const metricTable = {
  // ---- every process
  enodia_build_info: {
    type: gauge,
    unit: "",
    in: everywhere,
    per: "process",
    labels: { version: "open", node: "open" },
    help: "Always 1; the labels say which build runs.",
  },
  enodia_ready: { type: gauge, unit: "", in: everywhere, per: "process", labels: none, help: "1 while /readyz answers 200, else 0." },
  enodia_process_resident_memory_bytes: {
    type: gauge,
    unit: "bytes",
    in: everywhere,
    per: "process",
    labels: none,
    help: "Resident memory of the process.",
  },
  enodia_process_heap_used_bytes: {
    type: gauge,
    unit: "bytes",
    in: everywhere,
    per: "process",
    labels: none,
    help: "Used JavaScript heap of the main thread.",
  },
  enodia_process_cpu_seconds_total: {
    type: counter,
    unit: "seconds",
    in: everywhere,
    per: "process",
    labels: none,
    help: "CPU time of the process, user and system.",
  },
  enodia_process_start_timestamp_seconds: {
    type: gauge,
    unit: "seconds",
    in: everywhere,
    per: "process",
    labels: none,
    help: "Unix time at which the process started.",
  },
  enodia_event_loop_delay_seconds: {
    type: gauge,
    unit: "seconds",
    in: everywhere,
    per: "process",
    labels: { quantile: ["0.5", "0.99", "1"] },
    help: "Event loop delay of the main thread since the last scrape.",
  },
  enodia_nats_connected: {
    type: gauge,
    unit: "",
    in: ["operator", "worker"],
    per: "process",
    labels: none,
    help: "1 while the connection to NATS is up, 0 while it is away or not configured.",
  },

  // ---- gateway
  enodia_gateway_requests_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: { endpoint, code: "open" },
    help: "HTTP requests by endpoint and status code; 499 = the client went away.",
  },
  enodia_gateway_requests_active: {
    type: gauge,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: none,
    help: "Requests that hold an admission slot.",
  },
  enodia_gateway_queue_requests: {
    type: gauge,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: none,
    help: "Requests that wait for an admission slot.",
  },
  enodia_gateway_rejected_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: { reason: ["queue_full", "no_worker", "unauthorized", "invalid", "context_length", "too_large"] },
    help: "Requests refused before any work, by reason.",
  },
  enodia_gateway_request_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: gateway,
    per: "deployment",
    labels: { endpoint },
    buckets: latencyBuckets,
    help: "From the parsed request to its last byte.",
  },
  enodia_gateway_time_to_first_token_seconds: {
    type: histogram,
    unit: "seconds",
    in: gateway,
    per: "deployment",
    labels: none,
    buckets: latencyBuckets,
    help: "From the parsed request to its first token.",
  },
  enodia_gateway_inter_token_seconds: {
    type: histogram,
    unit: "seconds",
    in: gateway,
    per: "deployment",
    labels: none,
    buckets: latencyBuckets,
    help: "Between two tokens of a request, failovers included.",
  },
  enodia_gateway_tokens_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: { kind: ["prompt", "output"] },
    help: "Tokens read and written.",
  },
  enodia_gateway_failovers_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: { reason: ["lost", "draining", "silent", "error"] },
    help: "Times a running request went on at another worker.",
  },
  enodia_gateway_failed_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: none,
    help: "Accepted requests that ended with an error.",
  },
  enodia_gateway_cancelled_total: {
    type: counter,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: none,
    help: "Requests whose client went away.",
  },
  enodia_gateway_workers: {
    type: gauge,
    unit: "",
    in: gateway,
    per: "deployment",
    labels: { state: ["joining", "active", "draining", "lost"] },
    help: "Workers in the membership this gateway knows, by state.",
  },
  enodia_membership_version: {
    type: gauge,
    unit: "",
    in: runtimePods,
    per: "deployment",
    labels: none,
    help: "Version of the membership this pod knows.",
  },

  // ---- worker: serving
  enodia_worker_requests_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["stop", "length", "cancelled", "draining", "error"] },
    help: "Finished generations by reason.",
  },
  enodia_worker_requests_active: { type: gauge, unit: "", in: worker, per: "deployment", labels: none, help: "Requests in a KV slot." },
  enodia_worker_queue_requests: {
    type: gauge,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Requests that wait for a KV slot.",
  },
  enodia_worker_queue_tokens: {
    type: gauge,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Prompt and output tokens still to be computed for the requests here.",
  },
  enodia_worker_tokens_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { phase },
    help: "Tokens computed, by phase.",
  },
  enodia_worker_time_to_first_token_seconds: {
    type: histogram,
    unit: "seconds",
    in: worker,
    per: "deployment",
    labels: none,
    buckets: latencyBuckets,
    help: "From the arrival of a request at the worker to its first token.",
  },
  enodia_worker_step_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: worker,
    per: "deployment",
    labels: { phase },
    buckets: workBuckets,
    help: "One pass over all layers.",
  },
  enodia_worker_kv_slots: {
    type: gauge,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { state: ["used", "cached", "free"] },
    help: "KV slots by state; cached slots keep a finished prefix and are free to take.",
  },
  enodia_worker_memory_bytes: {
    type: gauge,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: { kind: ["dense", "kv", "experts", "staging"] },
    help: "Memory the worker holds, by what it is for.",
  },

  // ---- worker: experts and dispatch
  enodia_expert_hosted: {
    type: gauge,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "(layer, expert) pairs this rank holds.",
  },
  enodia_expert_hosted_bytes: {
    type: gauge,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Resident bytes of the experts this rank holds.",
  },
  enodia_expert_budget_bytes: {
    type: gauge,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Resident bytes this rank may spend on experts.",
  },
  enodia_expert_rows_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { origin: ["local", "remote"] },
    help: "Expert rows computed here for this rank's own tokens or for others.",
  },
  enodia_expert_on_demand_loads_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["ok", "error"] },
    help: "Experts loaded because a request needed one that no live rank held.",
  },
  enodia_dispatch_frames_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["ok", "not_hosted", "busy", "rejected", "error"] },
    help: "Frames sent to other ranks, by how they were answered.",
  },
  enodia_dispatch_served_frames_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["ok", "not_hosted", "busy", "rejected", "error"] },
    help: "Frames of other ranks answered here.",
  },
  enodia_dispatch_bytes_total: {
    type: counter,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: { direction: ["sent", "received"] },
    help: "Bytes of rows sent to and received from other ranks.",
  },
  enodia_dispatch_retries_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Frames sent again to another host.",
  },
  enodia_dispatch_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: worker,
    per: "deployment",
    labels: none,
    buckets: workBuckets,
    help: "From sending a frame to its rows.",
  },
  enodia_dispatch_in_flight: {
    type: gauge,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Frames sent and not yet answered.",
  },

  // ---- worker: plan and shards
  enodia_plan_epoch: { type: gauge, unit: "", in: worker, per: "deployment", labels: none, help: "Epoch of the plan this rank serves." },
  enodia_plan_prepares_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["ready", "failed", "aborted"] },
    help: "Layers prepared, by result.",
  },
  enodia_plan_commits_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["committed", "refused"] },
    help: "Commits, by result.",
  },
  enodia_plan_rollbacks_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Layers that went back to their parent plan.",
  },
  enodia_shard_fetches_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { source: shardSource, result: ["ok", "error", "corrupt"] },
    help: "Expert units fetched, by where from and result; corrupt = the hash did not match.",
  },
  enodia_shard_fetch_bytes_total: {
    type: counter,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: { source: shardSource },
    help: "Stored bytes of expert units received, by where from.",
  },
  enodia_shard_fetch_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: worker,
    per: "deployment",
    labels: { source: shardSource },
    buckets: moveBuckets,
    help: "From asking for an expert unit to its verified bytes.",
  },
  enodia_shard_served_bytes_total: {
    type: counter,
    unit: "bytes",
    in: worker,
    per: "deployment",
    labels: none,
    help: "Stored bytes of expert units sent to other ranks.",
  },
  enodia_telemetry_published_total: {
    type: counter,
    unit: "",
    in: worker,
    per: "deployment",
    labels: { result: ["ok", "dropped"] },
    help: "Load messages published, or dropped because NATS was away.",
  },

  // ---- operator: machinery
  enodia_operator_leader: {
    type: gauge,
    unit: "",
    in: operator,
    per: "process",
    labels: none,
    help: "1 on the replica that holds the lease.",
  },
  enodia_operator_reconciles_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "process",
    labels: { controller: "open", result: ["ok", "error", "requeue"] },
    help: "Reconciles by controller and result.",
  },
  enodia_operator_reconcile_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: operator,
    per: "process",
    labels: { controller: "open" },
    buckets: latencyBuckets,
    help: "Duration of a reconcile.",
  },
  enodia_operator_queue_depth: {
    type: gauge,
    unit: "",
    in: operator,
    per: "process",
    labels: { controller: "open" },
    help: "Keys that wait in the work queue.",
  },
  enodia_operator_queue_retries_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "process",
    labels: { controller: "open" },
    help: "Keys put back with back-off.",
  },
  enodia_operator_informer_last_event_timestamp_seconds: {
    type: gauge,
    unit: "seconds",
    in: operator,
    per: "process",
    labels: { kind: "open" },
    help: "Unix time of the last event or bookmark, by kind.",
  },
  enodia_operator_informer_synced: {
    type: gauge,
    unit: "",
    in: operator,
    per: "process",
    labels: { kind: "open" },
    help: "1 once the first list of the kind is held.",
  },

  // ---- operator: per deployment
  enodia_deployment_replicas: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: { state: ["desired", "allocated", "ready"] },
    help: "Worker pods wanted, existing and ready.",
  },
  enodia_deployment_ranks: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: { state: ["active", "joining", "draining", "masked"] },
    help: "Ranks by state; masked = lost and routed around.",
  },
  enodia_deployment_condition: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: { type: "open", status: ["True", "False", "Unknown"] },
    help: "1 for the present status of each condition, 0 for the others.",
  },
  enodia_placement_epoch: { type: gauge, unit: "", in: operator, per: "deployment", labels: none, help: "Epoch of the ExpertPlacement." },
  enodia_placement_epoch_lag: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Epoch of the ExpertPlacement less the lowest epoch an active rank serves.",
  },
  enodia_experts_at_risk: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: none,
    help: "(layer, expert) pairs with no live copy.",
  },
  enodia_expert_imbalance_ratio: {
    type: gauge,
    unit: "ratio",
    in: operator,
    per: "deployment",
    labels: { layer_agg: ["max", "mean"] },
    help: "Rows computed on the busiest rank over the mean, in the last window: worst layer and mean of layers.",
  },
  enodia_expert_imbalance_bound_ratio: {
    type: gauge,
    unit: "ratio",
    in: operator,
    per: "deployment",
    labels: { layer_agg: ["max", "mean"] },
    help: "The lowest imbalance that the memory budget allows for that load.",
  },
  enodia_rebalances_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "deployment",
    labels: { result: ["committed", "held", "aborted", "failed"], reason: "open" },
    help: "Rebalance decisions by result and PascalCase reason.",
  },
  enodia_rebalance_in_progress: {
    type: gauge,
    unit: "",
    in: operator,
    per: "deployment",
    labels: none,
    help: "1 from the written plan to its release.",
  },
  enodia_rebalance_started_timestamp_seconds: {
    type: gauge,
    unit: "seconds",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Unix time at which the running, or the last, rebalance began.",
  },
  enodia_rebalance_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: operator,
    per: "deployment",
    labels: none,
    buckets: moveBuckets,
    help: "From the written plan to its release.",
  },
  enodia_expert_moves_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "deployment",
    labels: none,
    help: "(layer, rank, expert) newly hosted by committed plans.",
  },
  enodia_expert_move_bytes_total: {
    type: counter,
    unit: "bytes",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Stored bytes received for those moves.",
  },
  enodia_planner_duration_seconds: {
    type: histogram,
    unit: "seconds",
    in: operator,
    per: "deployment",
    labels: { policy: "open" },
    buckets: workBuckets,
    help: "Time to make one plan.",
  },
  enodia_telemetry_last_sample_timestamp_seconds: {
    type: gauge,
    unit: "seconds",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Unix time of the last load message of any rank.",
  },
  enodia_telemetry_age_seconds: {
    type: gauge,
    unit: "seconds",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Age of the oldest last load message among active ranks.",
  },
  enodia_telemetry_samples_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "deployment",
    labels: none,
    help: "Load messages accepted.",
  },
  enodia_telemetry_dropped_total: {
    type: counter,
    unit: "",
    in: operator,
    per: "process",
    labels: { reason: ["malformed", "too_large", "unknown_deployment", "stale_boot", "duplicate", "late"] },
    help: "Load messages refused, by reason.",
  },
} as const satisfies Readonly<Record<string, MetricDefinition>>;

export type MetricTable = typeof metricTable;
export type MetricName = keyof MetricTable;

/** Names a process may record, of one type. */
export type MetricNameOf<P extends ProcessKind, T extends MetricType> = {
  [N in MetricName]: MetricTable[N]["type"] extends T ? (P extends MetricTable[N]["in"][number] ? N : never) : never;
}[MetricName];

type ValuesOf<V> = V extends readonly (infer One)[] ? One : string;
type OwnLabels<N extends MetricName> = { readonly [L in keyof MetricTable[N]["labels"]]: ValuesOf<MetricTable[N]["labels"][L]> };

/** Which deployment a series of the operator describes. */
export interface DeploymentLabels {
  readonly namespace: string;
  readonly deployment: string;
}

/** The labels a caller passes: the metric's own, and in the operator the deployment of per-deployment metrics. */
export type MetricLabels<P extends ProcessKind, N extends MetricName> = OwnLabels<N> &
  (P extends "operator" ? (MetricTable[N]["per"] extends "deployment" ? DeploymentLabels : unknown) : unknown);

/** All label names a scrape of this metric shows in some process; what dashboards may select on. */
export function metricLabelNames(name: MetricName): string[] {
  const definition: MetricDefinition = metricTable[name];
  const names = new Set(Object.keys(definition.labels));
  const runtime = definition.in.some((process) => process !== "operator");
  if (definition.per === "deployment" || runtime) names.add("namespace").add("deployment");
  if (definition.in.includes("worker")) names.add("rank");
  return [...names].sort();
}

/** The metric a sample name belongs to (`x_bucket`, `x_sum`, `x_count` of a histogram), or undefined. */
export function metricOfSample(sample: string): MetricName | undefined {
  if (sample in metricTable) return sample as MetricName;
  const base = sample.replace(/_(?:bucket|sum|count)$/, "");
  return base in metricTable && metricTable[base as MetricName].type === "histogram" ? (base as MetricName) : undefined;
}
