// The Deployment dashboard: one MoEDeployment as clients and owner see it.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, type Panel, rate } from "./panels.ts";

const by = "namespace, deployment";
const byRank = `${by}, rank`;
const quantiles = ["0.5", "0.99"] as const;
const percent = (quantile: string): string => `p${Number(quantile) * 100}`;

const recorded = (histogram: string) => [{ expr: `deployment:${histogram}:quantile_rate5m{%}`, legend: "{{quantile}}" }];
const measured = (histogram: string, labels: string) =>
  quantiles.map((quantile) => ({
    expr: `histogram_quantile(${quantile}, sum by (${labels}, le) (rate(${histogram}_bucket{%}[${rate}])))`,
    legend: `${percent(quantile)} {{${labels.split(", ").at(-1)}}}`,
  }));

const stats: readonly Panel[] = [
  {
    title: "Ranks that serve",
    description: "Ranks that take tokens now.",
    unit: "none",
    queries: [{ expr: 'max(enodia_deployment_ranks{state="active", %})', legend: "active" }],
  },
  {
    title: "Output tokens per second",
    description: "Written by all gateways, over five minutes.",
    unit: "short",
    queries: [{ expr: 'sum(deployment:enodia_gateway_tokens:rate5m{kind="output", %})', legend: "tokens/s" }],
  },
  {
    title: "Requests that fail",
    description: "Share answered with a status of 500 or more, over five minutes.",
    unit: "percentunit",
    queries: [{ expr: "max(deployment:enodia_gateway_errors:ratio_rate5m{%})", legend: "failed" }],
    red: 0.05,
  },
  {
    title: "KV memory in use",
    description: "Share of KV blocks that running requests hold.",
    unit: "percentunit",
    queries: [{ expr: "max(deployment:enodia_worker_kv_used:ratio{%})", legend: "used" }],
    red: 0.95,
  },
];

const clients: readonly Panel[] = [
  {
    title: "Time to the first token",
    description: "From the parsed request to its first token, over five minutes.",
    unit: "s",
    min: 0,
    part: "Clients",
    queries: recorded("enodia_gateway_time_to_first_token_seconds"),
  },
  {
    title: "Time between tokens",
    description: "As clients see it, failovers included, over five minutes.",
    unit: "s",
    min: 0,
    queries: recorded("enodia_gateway_inter_token_seconds"),
  },
  {
    title: "Time of a request",
    description: "From the parsed request to its last byte, by endpoint.",
    unit: "s",
    min: 0,
    traced: true,
    queries: measured("enodia_gateway_request_duration_seconds", "endpoint"),
  },
  {
    title: "Requests per second",
    description: "By status; 499 = the client went away.",
    unit: "reqps",
    min: 0,
    queries: [{ expr: `sum by (code) (rate(enodia_gateway_requests_total{%}[${rate}]))`, legend: "{{code}}" }],
  },
  {
    title: "Requests refused",
    description: "Per second, before any work, by reason.",
    unit: "reqps",
    min: 0,
    queries: [{ expr: `sum by (reason) (rate(enodia_gateway_rejected_total{%}[${rate}]))`, legend: "{{reason}}" }],
  },
  {
    title: "Tokens per second",
    description: "Read and written by the gateways, over five minutes.",
    unit: "short",
    min: 0,
    queries: [{ expr: "deployment:enodia_gateway_tokens:rate5m{%}", legend: "{{kind}}" }],
  },
  {
    title: "Requests inside",
    description: "Those that workers compute, and those that wait at a gateway or a worker.",
    unit: "none",
    min: 0,
    queries: [
      { expr: "sum(enodia_gateway_requests_active{%})", legend: "computed" },
      { expr: "sum(enodia_gateway_queue_requests{%})", legend: "waiting" },
    ],
  },
];

const ranks: readonly Panel[] = [
  {
    title: "Ranks",
    description: "By state; lost = not serving and routed around.",
    unit: "none",
    min: 0,
    part: "Ranks",
    queries: [
      { expr: `max by (${by}, state) (enodia_deployment_ranks{%})`, legend: "{{state}}" },
      { expr: `max by (${by}) (enodia_deployment_replicas{state="desired", %})`, legend: "wanted" },
    ],
  },
  {
    title: "Tokens computed",
    description: "Per second by each rank, prompts and answers.",
    unit: "short",
    min: 0,
    queries: [{ expr: `sum by (${byRank}) (rate(enodia_worker_tokens_total{%}[${rate}]))`, legend: "rank {{rank}}" }],
  },
  {
    title: "Time of a step, p99",
    description: "One pass over all layers, by kind of step.",
    unit: "s",
    min: 0,
    queries: [
      {
        expr: `histogram_quantile(0.99, sum by (phase, le) (rate(enodia_worker_step_duration_seconds_bucket{%}[${rate}])))`,
        legend: "{{phase}}",
      },
    ],
  },
  {
    title: "Prompt tokens that wait",
    description: "Prompt and replayed tokens of requests at each rank that have brought no token yet.",
    unit: "short",
    min: 0,
    queries: [{ expr: `sum by (${byRank}) (enodia_worker_queue_tokens{%})`, legend: "rank {{rank}}" }],
  },
  {
    title: "KV memory in use, by rank",
    description: "Share of each rank's KV blocks that running requests hold; cached prefixes are free to take.",
    unit: "percentunit",
    min: 0,
    queries: [
      {
        expr: `sum by (${byRank}) (enodia_worker_kv_blocks{state="used", %}) / sum by (${byRank}) (enodia_worker_kv_blocks{%})`,
        legend: "rank {{rank}}",
      },
    ],
  },
  {
    title: "Requests computed again",
    description: "Requests that gave their KV memory up to others, by rank. More than a few mean that spec.runtime.kvPool is small.",
    unit: "none",
    min: 0,
    queries: [{ expr: `sum by (${byRank}) (increase(enodia_worker_preemptions_total{%}[${rate}]))`, legend: "rank {{rank}}" }],
  },
  {
    title: "Memory of workers",
    description: "By what it is for, over all ranks.",
    unit: "bytes",
    min: 0,
    queries: [{ expr: "sum by (kind) (enodia_worker_memory_bytes{%})", legend: "{{kind}}" }],
  },
];

const operations: readonly Panel[] = [
  {
    title: "Requests that went on elsewhere",
    description: "Running requests that another worker took over, by reason.",
    unit: "none",
    min: 0,
    part: "Operations",
    queries: [{ expr: `sum by (reason) (increase(enodia_gateway_failovers_total{%}[${rate}]))`, legend: "{{reason}}" }],
  },
  {
    title: "Plans",
    description: "Rebalance decisions by result and reason, in each interval.",
    unit: "none",
    min: 0,
    queries: [{ expr: `sum by (result, reason) (increase(enodia_rebalances_total{%}[${rate}]))`, legend: "{{result}} {{reason}}" }],
  },
  {
    title: "Ranks that the load asks for",
    description: "And the least and most that the autoscaler sets.",
    unit: "none",
    min: 0,
    queries: [{ expr: `max by (state) (enodia_autoscale_ranks{%})`, legend: "{{state}}" }],
  },
  {
    title: "Metrics of the autoscaler",
    description: "Over their targets: above 1 more ranks are asked for.",
    unit: "none",
    min: 0,
    queries: [{ expr: "max by (metric) (enodia_autoscale_value{%}) / max by (metric) (enodia_autoscale_target{%})", legend: "{{metric}}" }],
  },
  {
    title: "Operations under way",
    description: "1 while the operator is in the middle of one, by type.",
    unit: "none",
    min: 0,
    queries: [{ expr: `max by (${by}, type) (enodia_operation_active{%})`, legend: "{{type}}" }],
  },
  {
    title: "Time of the last operation",
    description: "From beginning to end, by type; of those that status.history has.",
    unit: "s",
    min: 0,
    queries: [{ expr: `max by (${by}, type) (enodia_operation_last_duration_seconds{%})`, legend: "{{type}}" }],
  },
  {
    title: "Rolls taken back",
    description: "In each interval, by reason; and 1 while the spec asks for a template that failed.",
    unit: "none",
    min: 0,
    queries: [
      { expr: `sum by (reason) (increase(enodia_rollbacks_total{%}[${rate}]))`, legend: "{{reason}}" },
      { expr: `max by (${by}) (enodia_rollout_rolled_back{%})`, legend: "asked for" },
    ],
  },
  {
    title: "Conditions",
    description: "1 while a condition is True.",
    unit: "none",
    min: 0,
    queries: [{ expr: `max by (${by}, type) (enodia_deployment_condition{status="True", %})`, legend: "{{type}}" }],
  },
  {
    title: "Epoch that ranks serve",
    description: "Of the plan. Lines apart for long mean that a rank does not follow.",
    unit: "none",
    queries: [{ expr: `max by (${byRank}) (enodia_plan_epoch{%})`, legend: "rank {{rank}}" }],
  },
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
    series: [...clients, ...ranks, ...operations],
  });
