// The Deployment dashboard: one MoEDeployment as clients and owner see it.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, fromZero, type Panel, panel, type Queries, rate } from "./panels.ts";

const by = "namespace, deployment";
const byRank = `${by}, rank`;
const quantiles = ["0.5", "0.99"] as const;
const percent = (quantile: string): string => `p${Number(quantile) * 100}`;

const recorded = (histogram: string): Queries => [[`deployment:${histogram}:quantile_rate5m{%}`, "{{quantile}}"]];
const measured = (histogram: string, labels: string): Queries =>
  quantiles.map((quantile) => [
    `histogram_quantile(${quantile}, sum by (${labels}, le) (rate(${histogram}_bucket{%}[${rate}])))`,
    `${percent(quantile)} {{${labels.split(", ").at(-1)}}}`,
  ]);

const stats: readonly Panel[] = [
  panel("Ranks that serve", "Ranks that take tokens now.", "none", [['max(enodia_deployment_ranks{state="active", %})', "active"]]),
  panel("Output tokens per second", "Written by all gateways, over five minutes.", "short", [
    ['sum(deployment:enodia_gateway_tokens:rate5m{kind="output", %})', "tokens/s"],
  ]),
  panel(
    "Requests that fail",
    "Share answered with a status of 500 or more, over five minutes.",
    "percentunit",
    [["max(deployment:enodia_gateway_errors:ratio_rate5m{%})", "failed"]],
    { red: 0.05 },
  ),
  panel(
    "KV memory in use",
    "Share of KV blocks that running requests hold.",
    "percentunit",
    [["max(deployment:enodia_worker_kv_used:ratio{%})", "used"]],
    { red: 0.95 },
  ),
];

const clients: readonly Panel[] = [
  fromZero(
    "Time to the first token",
    "From the parsed request to its first token, over five minutes.",
    "s",
    recorded("enodia_gateway_time_to_first_token_seconds"),
    { part: "Clients" },
  ),
  fromZero(
    "Time between tokens",
    "As clients see it, failovers included, over five minutes.",
    "s",
    recorded("enodia_gateway_inter_token_seconds"),
  ),
  fromZero(
    "Time of a request",
    "From the parsed request to its last byte, by endpoint.",
    "s",
    measured("enodia_gateway_request_duration_seconds", "endpoint"),
    { traced: true },
  ),
  fromZero("Requests per second", "By status; 499 = the client went away.", "reqps", [
    [`sum by (code) (rate(enodia_gateway_requests_total{%}[${rate}]))`, "{{code}}"],
  ]),
  fromZero("Requests refused", "Per second, before any work, by reason.", "reqps", [
    [`sum by (reason) (rate(enodia_gateway_rejected_total{%}[${rate}]))`, "{{reason}}"],
  ]),
  fromZero("Tokens per second", "Read and written by the gateways, over five minutes.", "short", [
    ["deployment:enodia_gateway_tokens:rate5m{%}", "{{kind}}"],
  ]),
  fromZero("Requests inside", "Those that workers compute, and those that wait at a gateway or a worker.", "none", [
    ["sum(enodia_gateway_requests_active{%})", "computed"],
    ["sum(enodia_gateway_queue_requests{%})", "waiting"],
  ]),
];

const ranks: readonly Panel[] = [
  fromZero(
    "Ranks",
    "By state; lost = not serving and routed around.",
    "none",
    [
      [`max by (${by}, state) (enodia_deployment_ranks{%})`, "{{state}}"],
      [`max by (${by}) (enodia_deployment_replicas{state="desired", %})`, "wanted"],
    ],
    { part: "Ranks" },
  ),
  fromZero("Tokens computed", "Per second by each rank, prompts and answers.", "short", [
    [`sum by (${byRank}) (rate(enodia_worker_tokens_total{%}[${rate}]))`, "rank {{rank}}"],
  ]),
  fromZero("Time of a step, p99", "One pass over all layers, by kind of step.", "s", [
    [`histogram_quantile(0.99, sum by (phase, le) (rate(enodia_worker_step_duration_seconds_bucket{%}[${rate}])))`, "{{phase}}"],
  ]),
  fromZero("Prompt tokens that wait", "Prompt and replayed tokens of requests at each rank that have brought no token yet.", "short", [
    [`sum by (${byRank}) (enodia_worker_queue_tokens{%})`, "rank {{rank}}"],
  ]),
  fromZero(
    "KV memory in use, by rank",
    "Share of each rank's KV blocks that running requests hold; cached prefixes are free to take.",
    "percentunit",
    [[`sum by (${byRank}) (enodia_worker_kv_blocks{state="used", %}) / sum by (${byRank}) (enodia_worker_kv_blocks{%})`, "rank {{rank}}"]],
  ),
  fromZero(
    "Requests computed again",
    "Requests that gave their KV memory up to others, by rank. More than a few mean that spec.runtime.kvPool is small.",
    "none",
    [[`sum by (${byRank}) (increase(enodia_worker_preemptions_total{%}[${rate}]))`, "rank {{rank}}"]],
  ),
  fromZero("Prompt tokens found", "Per second that a rank need not compute, beside those that it computes.", "short", [
    [`sum(rate(enodia_worker_cached_prompt_tokens_total{%}[${rate}]))`, "found"],
    [`sum(rate(enodia_worker_tokens_total{phase="prefill", %}[${rate}]))`, "computed"],
  ]),
  fromZero("KV fetched", "Blocks of keys and values that another rank was asked for, in each interval; missing = computed.", "none", [
    [`sum by (result) (increase(enodia_kv_fetch_blocks_total{%}[${rate}]))`, "{{result}}"],
    [`sum(increase(enodia_kv_fetches_total{result="skipped", %}[${rate}]))`, "texts sooner computed"],
  ]),
  fromZero("KV bytes moved", "Keys and values between ranks, by the one that gets and the one that gives them.", "Bps", [
    [`sum by (${byRank}) (rate(enodia_kv_fetch_bytes_total{%}[${rate}]))`, "to rank {{rank}}"],
    [`sum by (${byRank}) (rate(enodia_kv_served_bytes_total{%}[${rate}]))`, "from rank {{rank}}"],
  ]),
  fromZero(
    "KV fetch time",
    "From asking another rank for keys and values to the last of them.",
    "s",
    measured("enodia_kv_fetch_duration_seconds", by),
  ),
  fromZero("KV kept beside the pool", "Blocks per second that host memory and disk took and gave back (spec.runtime.kvOffload).", "short", [
    [`sum by (tier, result) (rate(enodia_kv_tier_blocks_total{%}[${rate}]))`, "{{tier}} {{result}}"],
  ]),
  fromZero("How ranks are chosen", "Requests per second, by what decided: prefix = it had most of the prompt.", "reqps", [
    [`sum by (by) (rate(enodia_gateway_choices_total{%}[${rate}]))`, "{{by}}"],
  ]),
  fromZero("Memory of workers", "By what it is for, over all ranks.", "bytes", [
    ["sum by (kind) (enodia_worker_memory_bytes{%})", "{{kind}}"],
  ]),
];

const roles: readonly Panel[] = [
  fromZero(
    "Requests by role",
    "Sent to ranks per second, by the rank's role; a prompt that is handed over counts at two.",
    "reqps",
    [[`sum by (role) (rate(enodia_gateway_role_requests_total{%}[${rate}]))`, "{{role}}"]],
    { part: "Prefill and decode" },
  ),
  fromZero(
    "Time of a handover",
    "Between the first token, of a rank for prefill, and the next one.",
    "s",
    quantiles.map((quantile) => [
      `histogram_quantile(${quantile}, sum by (le) (rate(enodia_gateway_handover_seconds_bucket{%}[${rate}])))`,
      percent(quantile),
    ]),
  ),
];

const operations: readonly Panel[] = [
  fromZero(
    "Requests that went on elsewhere",
    "Running requests that another worker took over, by reason.",
    "none",
    [[`sum by (reason) (increase(enodia_gateway_failovers_total{%}[${rate}]))`, "{{reason}}"]],
    { part: "Operations" },
  ),
  fromZero("Plans", "Rebalance decisions by result and reason, in each interval.", "none", [
    [`sum by (result, reason) (increase(enodia_rebalances_total{%}[${rate}]))`, "{{result}} {{reason}}"],
  ]),
  fromZero("Ranks that the load asks for", "And the least and most that the autoscaler sets.", "none", [
    [`max by (state) (enodia_autoscale_ranks{%})`, "{{state}}"],
  ]),
  fromZero("Metrics of the autoscaler", "Over their targets: above 1 more ranks are asked for.", "none", [
    ["max by (metric) (enodia_autoscale_value{%}) / max by (metric) (enodia_autoscale_target{%})", "{{metric}}"],
  ]),
  fromZero("Operations under way", "1 while the operator is in the middle of one, by type.", "none", [
    [`max by (${by}, type) (enodia_operation_active{%})`, "{{type}}"],
  ]),
  fromZero("Time of the last operation", "From beginning to end, by type; of those that status.history has.", "s", [
    [`max by (${by}, type) (enodia_operation_last_duration_seconds{%})`, "{{type}}"],
  ]),
  fromZero("Rollbacks", "In each interval, by reason; and 1 while the spec asks for a template that failed.", "none", [
    [`sum by (reason) (increase(enodia_rollbacks_total{%}[${rate}]))`, "{{reason}}"],
    [`max by (${by}) (enodia_rollout_rolled_back{%})`, "asked for"],
  ]),
  fromZero("Conditions", "1 while a condition is True.", "none", [
    [`max by (${by}, type) (enodia_deployment_condition{status="True", %})`, "{{type}}"],
  ]),
  panel("Epoch that ranks serve", "Of the plan. Lines apart for long mean that a rank does not follow.", "none", [
    [`max by (${byRank}) (enodia_plan_epoch{%})`, "rank {{rank}}"],
  ]),
];

export const deploymentDashboard = (): Dashboard =>
  dashboardOf({
    name: "Deployment",
    tags: ["mixture-of-experts"],
    variables: ["namespace", "deployment"],
    one: true,
    known: "enodia_deployment_replicas",
    back: "30m",
    annotation: { name: "Rebalances", expr: "changes(enodia_rebalance_started_timestamp_seconds{%}[1m]) > 0" },
    stats,
    series: [...clients, ...ranks, ...roles, ...operations],
  });
