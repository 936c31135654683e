// All metrics; runtime/observe/runtime-metrics.ts registers them, dashboards and alerts are tested against them.
//
// Names end in their unit (`_seconds`, `_bytes`, `_ratio`), counters in `_total` after it. Series of runtime pods carry `namespace` and
// `deployment` (workers also `rank`); the operator passes the first two on metrics `per: "deployment"`. Experts and layers are never
// labels: `layer_agg` aggregates layers, and vectors travel on NATS.

import { conditionStatuses } from "./conditions.ts";
import { gatewayMetrics } from "./gateway-metrics.ts";
import {
  every,
  latency,
  type MetricDefinition,
  type MetricType,
  managed,
  moving,
  natsUsers,
  operator,
  type ProcessKind,
  pods,
  stalling,
  work,
  worker,
} from "./metric-definition.ts";
import {
  autoscaleFaults,
  connectionRefusals,
  frameResults,
  frameStallParts,
  loadRefusals,
  memberStates,
  predictorNames,
  prefetchResults,
  suspectReasons,
  trainingFailures,
  trainingPlacements,
} from "./names.ts";
import { operationTypes } from "./operation.ts";
import { rollbackReasons } from "./rollout.ts";
import { phases as phase, stepKinds } from "./telemetry.ts";
import { shareQuantiles } from "./training-report.ts";

const drafted = ["accepted", "rejected"] as const;
const kvState = ["used", "cached", "free"] as const;
const kvFetched = ["ok", "part", "none", "error", "skipped"] as const;
const kvTiered = ["stored", "found", "dropped", "corrupt"] as const;
const tier = ["memory", "disk"] as const;
const shardSource = ["peer", "weight-server", "store"] as const;
const trainingJob = { training_namespace: "open", training_job: "open" } as const;
const trainingFailed = { training_namespace: "open", training_job: "open", reason: trainingFailures } as const;
const trainingPlaced = { training_namespace: "open", training_job: "open", placement: trainingPlacements } as const;
const trainingShare = { training_namespace: "open", training_job: "open", quantile: shareQuantiles } as const;

const foreseen = { kind: ["predicted", "measured"] } as const;

const table = {
  // ---- every process
  enodia_build_info: every.gauge("Always 1; the labels say which build runs.", { version: "open", node: "open" }),
  enodia_ready: every.gauge("1 while /readyz answers 200, else 0."),
  enodia_process_resident_memory_bytes: every.gauge("Resident memory of the process."),
  enodia_process_heap_used_bytes: every.gauge("Used JavaScript heap of the main thread."),
  enodia_process_cpu_seconds_total: every.counter("CPU time of the process, user and system."),
  enodia_process_start_timestamp_seconds: every.gauge("Unix time at which the process started."),
  enodia_event_loop_delay_seconds: every.gauge("Event loop delay of the main thread since the last scrape.", {
    quantile: ["0.5", "0.99", "1"],
  }),
  enodia_refused_connections_total: every.counter("Connections that could not be accepted or ended before use, by port and reason.", {
    port: "open",
    reason: connectionRefusals,
  }),
  enodia_nats_connected: natsUsers.gauge("1 while the connection to NATS is up, 0 while it is away or not configured."),

  // ---- gateway
  ...gatewayMetrics,
  enodia_membership_version: pods.gauge("Version of the membership this pod knows."),

  // ---- worker: serving
  enodia_worker_requests_total: worker.counter("Generations by end.", { result: ["stop", "length", "cancelled", "draining", "error"] }),
  enodia_worker_kept_answers: worker.gauge("Answers kept for clients that may come back by another gateway."),
  enodia_worker_kept_bytes: worker.gauge("Bytes of these, as estimated."),
  enodia_worker_resumed_total: worker.counter("Requests that went on with a kept answer; none of its tokens was computed anew."),
  enodia_worker_requests_active: worker.gauge("Requests in a KV slot."),
  enodia_worker_preemptions_total: worker.counter("Requests that gave their KV memory up to others and were computed again."),
  enodia_worker_queue_requests: worker.gauge("Requests that wait for a KV slot."),
  enodia_worker_queue_tokens: worker.gauge("Prompt and replayed tokens of the requests here that have brought no token yet."),
  enodia_worker_tokens_total: worker.counter("Tokens computed, by phase.", { phase }),
  enodia_worker_draft_tokens_total: worker.counter("Tokens guessed and computed ahead, by what came of it.", { result: drafted }),
  enodia_worker_cached_prompt_tokens_total: worker.counter("Prompt tokens not computed, since a KV slot still held them."),
  enodia_kv_fetches_total: worker.counter("Texts asked of another rank; skipped = computing is sooner.", { result: kvFetched }),
  enodia_kv_fetch_blocks_total: worker.counter("Their blocks of 64 positions, by whether they came.", { result: ["fetched", "missing"] }),
  enodia_kv_fetch_bytes_total: worker.counter("Bytes of keys and values received from other ranks."),
  enodia_kv_fetch_duration_seconds: worker.histogram("From asking for keys and values to the last of them.", moving),
  enodia_kv_served_bytes_total: worker.counter("Bytes of keys and values sent to other ranks."),
  enodia_kv_tier_blocks_total: worker.counter("Blocks of keys and values kept beside the KV pool.", { tier, result: kvTiered }),
  enodia_kv_tier_bytes_total: worker.counter("Bytes that went out to a tier and back.", { tier, direction: ["out", "back"] }),
  enodia_kv_tier_seconds_total: worker.counter("Time that took.", { tier, direction: ["out", "back"] }),
  enodia_kv_tier_held_bytes: worker.gauge("Bytes of keys and values that a tier holds.", { tier }),
  enodia_kv_swapped_tokens_total: worker.counter("Positions of preempted requests that came back from memory."),
  enodia_worker_time_to_first_token_seconds: worker.histogram("From the arrival of a request at the worker to its first token.", latency),
  enodia_worker_step_duration_seconds: worker.histogram("One pass over all layers.", work, { phase: stepKinds }),
  enodia_worker_step_wait_seconds_total: worker.counter("Time in which steps only waited for rows of other ranks.", { phase: stepKinds }),
  enodia_worker_kv_slots: worker.gauge("KV slots by state; cached ones keep a prefix and are free to take.", { state: kvState }),
  enodia_worker_kv_blocks: worker.gauge("Blocks of KV memory by state; cached ones keep a prefix and are free to take.", {
    state: kvState,
  }),
  enodia_worker_memory_bytes: worker.gauge("Memory the worker holds, by what it is for.", { kind: ["dense", "kv", "experts", "staging"] }),

  // ---- worker: experts and dispatch
  enodia_expert_hosted: worker.gauge("(layer, expert) pairs this rank holds."),
  enodia_expert_replicas_away: worker.gauge("Planned expert replicas that gave way, in a full memory, to experts that no other rank had."),
  enodia_expert_hosted_bytes: worker.gauge("Resident bytes of the experts this rank holds."),
  enodia_expert_budget_bytes: worker.gauge("Resident bytes this rank may spend on experts."),
  enodia_expert_rows_total: worker.counter("Expert rows computed here for this rank's own tokens or for others.", {
    origin: ["local", "remote"],
  }),
  enodia_expert_on_demand_loads_total: worker.counter("Experts loaded because a request needed one that no live rank held.", {
    result: ["ok", "error"],
  }),
  enodia_expert_misses_total: worker.counter("Experts that rows waited for, since this rank serves more than its memory holds."),
  enodia_expert_miss_bytes_total: worker.counter("Stored bytes of those experts."),
  enodia_expert_miss_stall_seconds_total: worker.counter("Time in which rows waited for at least one of them."),
  enodia_expert_hits_total: worker.counter("Experts that were in memory when rows chose them, where this rank serves more than it holds."),
  enodia_expert_prefetches_total: worker.counter("Experts loaded before rows chose them: useful, late if rows waited, wasted if unused.", {
    ...{ predictor: predictorNames, result: prefetchResults },
  }),
  enodia_expert_prefetch_bytes_total: worker.counter("Stored bytes of these experts; those of late ones count as missed ones."),
  enodia_dispatch_frames_total: worker.counter("Frames sent to other ranks, by how they were answered.", { result: frameResults }),
  enodia_dispatch_served_frames_total: worker.counter("Frames of other ranks answered here.", { result: frameResults }),
  enodia_dispatch_bytes_total: worker.counter("Bytes of rows sent to and received from other ranks.", { direction: ["sent", "received"] }),
  enodia_dispatch_retries_total: worker.counter("Frames sent again to another host."),
  enodia_dispatch_duration_seconds: worker.histogram("From sending a frame to its rows.", work),
  enodia_dispatch_stall_seconds: worker.histogram(
    "Waits of frames that their first host did not answer: until it was known to be gone, and from then until another rank had answered.",
    stalling,
    { part: frameStallParts },
  ),
  enodia_peer_suspicions_total: worker.counter("Times this rank began to keep away from another, by reason.", { reason: suspectReasons }),
  enodia_dispatch_in_flight: worker.gauge("Frames sent and not yet answered."),
  enodia_dispatch_streams: worker.gauge("Ranks whose heartbeat this rank hears, each on a connection of its own."),
  enodia_dispatch_streams_opened_total: worker.counter("Heartbeats begun to other ranks, by a frame or to ask a suspect."),
  enodia_dispatch_streams_closed_total: worker.counter("Heartbeats ended: unused for a minute, or ended by themselves.", {
    reason: ["idle", "ended"],
  }),
  enodia_dispatch_engine_connections: worker.gauge("Ranks whose engines take frames from this rank's engine."),

  // ---- worker: plan and shards
  enodia_plan_epoch: worker.gauge("Epoch of the plan this rank serves."),
  enodia_plan_prepares_total: worker.counter("Layers prepared, by result.", { result: ["ready", "failed", "aborted"] }),
  enodia_plan_commits_total: worker.counter("Commits, by result.", { result: ["committed", "refused"] }),
  enodia_plan_rollbacks_total: worker.counter("Layers that went back to their parent plan."),
  enodia_shard_fetches_total: worker.counter("Expert units fetched, by where from and result; corrupt = the hash did not match.", {
    source: shardSource,
    result: ["ok", "error", "corrupt"],
  }),
  enodia_shard_fetch_bytes_total: worker.counter("Stored bytes of expert units received, by where from.", { source: shardSource }),
  enodia_shard_fetch_duration_seconds: worker.histogram("From asking for an expert unit to its verified bytes.", moving, {
    source: shardSource,
  }),
  enodia_shard_served_bytes_total: worker.counter("Stored bytes of expert units sent to other ranks."),
  enodia_transfer_rate_bytes_per_second: worker.gauge("Rate of limited transfers here, backed off while tokens are slow; 0 = none."),
  enodia_transfer_backoffs_total: worker.counter("Times that rate was halved because tokens had become slower."),
  enodia_telemetry_published_total: worker.counter("Load messages that NATS or an operator took, that nobody took, or without a key.", {
    result: ["ok", "dropped", "no_key"],
  }),

  // ---- operator: machinery
  enodia_operator_leader: operator.gauge("1 on the replica that holds the lease."),
  enodia_operator_reconciles_total: operator.counter("Reconciles by controller and result.", {
    controller: "open",
    result: ["ok", "error", "requeue"],
  }),
  enodia_operator_reconcile_duration_seconds: operator.histogram("Duration of a reconcile.", latency, { controller: "open" }),
  enodia_operator_queue_depth: operator.gauge("Keys that wait in the work queue.", { controller: "open" }),
  enodia_operator_queue_retries_total: operator.counter("Keys put back with back-off.", { controller: "open" }),
  enodia_operator_informer_last_event_timestamp_seconds: operator.gauge("Unix time of the last event or bookmark, by kind.", {
    kind: "open",
  }),
  enodia_operator_informer_synced: operator.gauge("1 once the first list of the kind is held.", { kind: "open" }),
  enodia_operator_namespace_watched: operator.gauge("1 while a namespace of watchNamespaces can be listed and followed, else 0.", {
    watched_namespace: "open",
  }),

  // ---- operator: per deployment
  enodia_deployment_replicas: managed.gauge("Worker pods wanted, existing and ready.", { state: ["desired", "allocated", "ready"] }),
  enodia_deployment_ranks: managed.gauge("Ranks by state; lost = not serving and routed around.", {
    state: memberStates,
  }),
  enodia_deployment_condition: managed.gauge("1 for the present status of each condition, 0 for the others.", {
    type: "open",
    status: conditionStatuses,
  }),
  enodia_autoscale_ranks: managed.gauge("Ranks that the load asks for, and the least and most that the autoscaler sets.", {
    state: ["asked", "least", "most"],
  }),
  enodia_autoscale_value: managed.gauge("A metric of the autoscaler, as a mean of the ranks; none while one of them does not report it.", {
    metric: "open",
  }),
  enodia_autoscale_target: managed.gauge("What that metric is to be.", { metric: "open" }),
  enodia_autoscale_frozen: managed.gauge("1 while the autoscaler sets nothing for this reason, though ranks are wanted, else 0.", {
    reason: autoscaleFaults,
  }),
  enodia_operation_active: managed.gauge("1 for the operation under way, 0 for the other types.", { type: operationTypes }),
  enodia_operation_deadline_timestamp_seconds: managed.gauge(
    "Unix time by which the operation under way, or the last, should have ended; from then on Progressing says so.",
  ),
  enodia_operation_last_duration_seconds: managed.gauge("From beginning to end of the last operation of its type, of those remembered.", {
    type: operationTypes,
  }),
  enodia_rollout_rolled_back: managed.gauge("1 while the spec asks for a template whose roll was rolled back, else 0."),
  enodia_rollbacks_total: managed.counter("Rolls that were rolled back, by reason.", { reason: rollbackReasons }),
  enodia_placement_epoch: managed.gauge("Epoch of the ExpertPlacement."),
  enodia_placement_epoch_lag: managed.gauge("Epoch of the ExpertPlacement less the lowest epoch an active rank serves."),
  enodia_experts_unhosted: managed.gauge(
    "(layer, expert) pairs of the plan that no rank holds; a restarted rank holds what it has loaded again.",
  ),
  enodia_experts_at_risk: managed.gauge("(layer, expert) pairs that the loss of one node would leave without a live expert replica."),
  enodia_expert_imbalance_ratio: managed.gauge(
    "Rows computed on the busiest rank over the mean, in the last window: worst layer and mean of layers.",
    { layer_agg: ["max", "mean"] },
  ),
  enodia_expert_phase_imbalance_ratio: managed.gauge(
    "Rows of one phase that the committed plan gives to the busiest rank over the mean, in the last window: worst layer and mean of layers.",
    { phase, layer_agg: ["max", "mean"] },
  ),
  enodia_expert_imbalance_bound_ratio: managed.gauge("The lowest imbalance that the memory budget allows for that load.", {
    layer_agg: ["max", "mean"],
  }),
  enodia_expert_miss_loads_ratio: managed.gauge("Experts that ranks load for a token, where they serve more than they hold.", foreseen),
  enodia_expert_miss_load_seconds: managed.gauge("Time of these loads for a token, at the rank that loads longest.", foreseen),
  enodia_predicted_imbalance_ratio: managed.gauge(
    "Worst layer's busiest rank over the mean, for the forecast load: under the committed plan, and under the one last proposed.",
    { plan: ["committed", "proposed"] },
  ),
  enodia_proposed_moves: managed.gauge("Expert replicas that the plan last proposed would newly place, carried out or not."),
  enodia_proposed_gain_seconds: managed.gauge("Layer time that it would save while its forecast is expected to hold."),
  enodia_proposed_cost_seconds: managed.gauge("Layer time that its transfers would cost."),
  enodia_forecast_newest_weight_ratio: managed.gauge("Weight of the newest window in the average that forecasts the load best, 0 to 1."),
  enodia_forecast_error_ratio: managed.gauge(
    "Part of the load, 0 to 1, by which this average missed recent windows: mean total variation.",
  ),
  enodia_forecast_noise_floor_ratio: managed.gauge("Part of the load by which two windows of the same load differ by chance."),
  enodia_forecast_changed: managed.gauge("1 from a sudden change of the load until a plan was judged, at most four windows; else 0."),
  enodia_rebalances_total: managed.counter("Rebalance decisions by result and PascalCase reason.", {
    result: ["committed", "held", "aborted", "failed"],
    reason: "open",
  }),
  enodia_rebalance_in_progress: managed.gauge("1 from the written plan to its release."),
  enodia_rebalance_started_timestamp_seconds: managed.gauge("Unix time at which the running, or the last, rebalance began."),
  enodia_rebalance_deadline_timestamp_seconds: managed.gauge(
    "Unix time by which the running, or the last, rebalance is committed or rolled back.",
  ),
  enodia_rebalance_duration_seconds: managed.histogram("From the written plan to its release.", moving),
  enodia_expert_moves_total: managed.counter("(layer, rank, expert) newly hosted by committed plans."),
  enodia_expert_move_bytes_total: managed.counter("Stored bytes received for those moves."),
  enodia_planner_duration_seconds: managed.histogram("Time to make one plan.", work, { policy: "open" }),
  enodia_telemetry_last_sample_timestamp_seconds: managed.gauge("Unix time of the last load message of any rank."),
  enodia_telemetry_age_seconds: managed.gauge(
    "Age of the oldest last load message among active ranks; not there until a first one came where no NATS server is named.",
  ),
  enodia_telemetry_samples_total: managed.counter("Load messages accepted."),
  enodia_answers_over_quota_total: managed.counter("Answers above a deployment's quota.", { result: ["delayed", "dropped"] }),
  enodia_telemetry_dropped_total: operator.counter("Load messages refused, by reason.", { reason: loadRefusals }),

  // ---- training jobs, as their statuses have them
  enodia_training_created_timestamp_seconds: operator.gauge("Unix time at which the job was made.", trainingJob),
  enodia_training_step: operator.gauge("The last step that is known to be done.", trainingJob),
  enodia_training_steps: operator.gauge("Steps in all.", trainingJob),
  enodia_training_loss: operator.gauge("Loss of the last step.", trainingJob),
  enodia_training_validation_loss: operator.gauge("Loss of the validation data, at the newest checkpoint.", trainingJob),
  enodia_training_gradient_norm: operator.gauge("Norm of the gradients of the last step, before it is clipped.", trainingJob),
  enodia_training_imbalance_ratio: operator.gauge(
    "Rows of the busiest expert over the mean, in the last step and the layer where that is most.",
    trainingJob,
  ),
  enodia_training_rank_imbalance_ratio: operator.gauge(
    "Rows of the busiest rank over the mean, in the last step and the layer where that is most: were experts at their primaries alone, and with expert replicas.",
    trainingPlaced,
  ),
  enodia_training_expert_share_ratio: operator.gauge(
    "Shares of a layer's rows in the last step, from the idlest expert (0) to the busiest (1), in the layer that is least even.",
    trainingShare,
  ),
  enodia_training_copied_ratio: operator.gauge("Share of experts that had expert replicas in the last step.", trainingJob),
  enodia_training_exposed_seconds: operator.gauge(
    "Time of the last step in which the first rank waited for expert replicas and sums of gradients alone.",
    trainingJob,
  ),
  enodia_training_moved_bytes: operator.gauge("Bytes of expert replicas and sums that the first rank sent in the last step.", trainingJob),
  enodia_training_tokens_per_second: operator.gauge("Tokens per second over the last steps; 0 while no pod trains.", trainingJob),
  enodia_training_restarts: operator.gauge("Pods that failed and were replaced.", trainingJob),
  enodia_training_active: operator.gauge("1 for a job that should train: neither over nor suspended. Else 0.", trainingJob),
  enodia_training_failed: operator.gauge("1 for the reason for which a job has failed for good, 0 for the others.", trainingFailed),
};
// A contextual type would widen every entry's labels.
export const metricTable = table satisfies Readonly<Record<string, MetricDefinition>>;

type MetricTable = typeof metricTable;
export type MetricName = keyof MetricTable;

export type MetricNameOf<P extends ProcessKind, T extends MetricType> = {
  [N in MetricName]: MetricTable[N]["type"] extends T ? (P extends MetricTable[N]["in"][number] ? N : never) : never;
}[MetricName];

type ValuesOf<V> = V extends readonly (infer One)[] ? One : string;
type OwnLabels<N extends MetricName> = { readonly [L in keyof MetricTable[N]["labels"]]: ValuesOf<MetricTable[N]["labels"][L]> };

export interface DeploymentLabels {
  readonly namespace: string;
  readonly deployment: string;
}

/** The operator adds the deployment on per-deployment metrics. */
export type MetricLabels<P extends ProcessKind, N extends MetricName> = OwnLabels<N> &
  (P extends "operator" ? (MetricTable[N]["per"] extends "deployment" ? DeploymentLabels : unknown) : unknown);

/** The label names that any process exports; dashboards may select on them. */
export function metricLabelNames(name: MetricName): string[] {
  const definition: MetricDefinition = metricTable[name];
  const names = new Set(Object.keys(definition.labels));
  const runtime = definition.in.some((process) => process !== "operator");
  if (definition.per === "deployment" || runtime) names.add("namespace").add("deployment");
  if (definition.in.includes("worker")) names.add("rank");
  return [...names].sort();
}

/** Accepts `x_bucket`, `x_sum` and `x_count` too. */
export function metricOfSample(sample: string): MetricName | undefined {
  if (sample in metricTable) return sample as MetricName;
  const base = sample.replace(/_(?:bucket|sum|count)$/, "");
  return base in metricTable && metricTable[base as MetricName].type === "histogram" ? (base as MetricName) : undefined;
}
