// The Fleet dashboard: all deployments, and the operator's own health.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, type Panel, rate } from "./panels.ts";

const by = "namespace, deployment";
const name = "{{namespace}}/{{deployment}}";
/** The operator's processes belong to no deployment. */
const operator = 'deployment=""';

const stats: readonly Panel[] = [
  {
    title: "Deployments",
    description: "MoEDeployments that the operator knows.",
    unit: "none",
    queries: [{ expr: `count(max by (${by}) (enodia_deployment_replicas{state="desired", %}))`, legend: "deployments" }],
  },
  {
    title: "Ranks missing",
    description: "Ranks that are wanted and do not serve, over all deployments.",
    unit: "none",
    queries: [
      {
        expr: `sum(clamp_min(max by (${by}) (enodia_deployment_replicas{state="desired", %}) - max by (${by}) (enodia_deployment_ranks{state="active", %}), 0))`,
        legend: "missing",
      },
    ],
    red: 1,
  },
  {
    title: "Deployments in trouble",
    description: "Deployments with at least one line in the table below.",
    unit: "none",
    queries: [{ expr: `count(count by (${by}) (deployment_type:enodia_deployment_trouble:bool{%})) or vector(0)`, legend: "in trouble" }],
    red: 1,
  },
  {
    title: "Operators that lead",
    description: "1 while one replica holds the lease. At 0 nothing is repaired, scaled or balanced; what runs goes on serving.",
    unit: "none",
    queries: [{ expr: "sum(enodia_operator_leader)", legend: "leaders" }],
  },
];

const tables: readonly Panel[] = [
  {
    title: "What is wrong",
    description:
      "Conditions that tell of trouble, one line each. `kubectl describe moed` has their messages with the remedy. Deployments that want no ranks are not here.",
    unit: "none",
    queries: [{ expr: "deployment_type:enodia_deployment_trouble:bool{%}", legend: `${name} {{type}}` }],
  },
];

const deployments: readonly Panel[] = [
  {
    title: "Ranks that serve",
    description: "Of each deployment, beside those that are wanted.",
    unit: "none",
    min: 0,
    part: "Deployments",
    queries: [
      { expr: `max by (${by}) (enodia_deployment_ranks{state="active", %})`, legend: name },
      { expr: `max by (${by}) (enodia_deployment_replicas{state="desired", %})`, legend: `${name} wanted` },
    ],
  },
  {
    title: "Output tokens per second",
    description: "Written by the gateways of each deployment.",
    unit: "short",
    min: 0,
    queries: [{ expr: 'deployment:enodia_gateway_tokens:rate5m{kind="output", %}', legend: name }],
  },
  {
    title: "Requests per second",
    description: "Of each deployment, also those that were refused.",
    unit: "reqps",
    min: 0,
    queries: [{ expr: "deployment:enodia_gateway_requests:rate5m{%}", legend: name }],
  },
  {
    title: "Share of requests that fail",
    description: "Answered with a status of 500 or more.",
    unit: "percentunit",
    min: 0,
    queries: [{ expr: "deployment:enodia_gateway_errors:ratio_rate5m{%}", legend: name }],
  },
  {
    title: "Time to the first token, p99",
    description: "From the parsed request to its first token.",
    unit: "s",
    min: 0,
    queries: [{ expr: 'deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.99", %}', legend: name }],
  },
  {
    title: "KV memory in use",
    description: "Share of KV blocks that running requests hold. At 1 requests wait or are computed again.",
    unit: "percentunit",
    min: 0,
    queries: [{ expr: "deployment:enodia_worker_kv_used:ratio{%}", legend: name }],
  },
];

const machinery: readonly Panel[] = [
  {
    title: "Reconciles",
    description: "Per second, by controller and result.",
    unit: "ops",
    min: 0,
    part: "The operator",
    queries: [
      {
        expr: `sum by (controller, result) (rate(enodia_operator_reconciles_total[${rate}]))`,
        legend: "{{controller}} {{result}}",
      },
    ],
  },
  {
    title: "Time of a reconcile, p99",
    description: "By controller. It grows with the number of deployments and with the API server's delay.",
    unit: "s",
    min: 0,
    traced: true,
    queries: [
      {
        expr: `histogram_quantile(0.99, sum by (controller, le) (rate(enodia_operator_reconcile_duration_seconds_bucket[${rate}])))`,
        legend: "{{controller}}",
      },
    ],
  },
  {
    title: "Keys that wait",
    description: "In the work queues. More than zero for long means that reconciles come slower than changes.",
    unit: "none",
    min: 0,
    queries: [{ expr: "sum by (controller) (enodia_operator_queue_depth)", legend: "{{controller}}" }],
  },
  {
    title: "Age of what is known of the cluster",
    description: "Seconds since the last event or bookmark of each kind. Bookmarks come about once a minute.",
    unit: "s",
    min: 0,
    queries: [{ expr: "time() - max by (kind) (enodia_operator_informer_last_event_timestamp_seconds)", legend: "{{kind}}" }],
  },
  {
    title: "Memory",
    description: "Resident memory and JavaScript heap of the operator's replica that has most of it.",
    unit: "bytes",
    min: 0,
    queries: [
      { expr: `max(enodia_process_resident_memory_bytes{${operator}})`, legend: "resident" },
      { expr: `max(enodia_process_heap_used_bytes{${operator}})`, legend: "heap" },
    ],
  },
  {
    title: "CPU and delay of the event loop",
    description: "CPU of all replicas of the operator together, and the 99th percentile of the delay of the slowest.",
    unit: "none",
    min: 0,
    queries: [
      { expr: `sum(rate(enodia_process_cpu_seconds_total{${operator}}[${rate}]))`, legend: "CPUs" },
      { expr: `max(enodia_event_loop_delay_seconds{quantile="0.99", ${operator}})`, legend: "delay in seconds" },
    ],
  },
];

export const fleetDashboard = (): Dashboard =>
  dashboardOf({
    name: "Fleet",
    tags: ["mixture-of-experts"],
    variables: ["namespace"],
    known: "enodia_deployment_replicas",
    back: "1h",
    // A new replica leads before its first scrape, so that its own series shows no change.
    annotation: { name: "Another leader", expr: "enodia_operator_leader == 1 unless enodia_operator_leader offset 1m == 1" },
    stats,
    tables,
    series: [...deployments, ...machinery],
  });
