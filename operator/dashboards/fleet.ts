// The Fleet dashboard: all deployments, and the operator's own health.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, fromZero, type Panel, panel, rate } from "./panels.ts";

const by = "namespace, deployment";
const name = "{{namespace}}/{{deployment}}";
/** The operator's processes belong to no deployment. */
const operator = 'deployment=""';

const stats: readonly Panel[] = [
  panel("Deployments", "MoEDeployments that the operator knows.", "none", [
    [`count(max by (${by}) (enodia_deployment_replicas{state="desired", %}))`, "deployments"],
  ]),
  panel(
    "Ranks missing",
    "Ranks that are wanted and do not serve, over all deployments.",
    "none",
    [
      [
        `sum(clamp_min(max by (${by}) (enodia_deployment_replicas{state="desired", %}) - max by (${by}) (enodia_deployment_ranks{state="active", %}), 0))`,
        "missing",
      ],
    ],
    { red: 1 },
  ),
  panel(
    "Deployments in trouble",
    "Deployments with at least one line in the table below.",
    "none",
    [[`count(count by (${by}) (deployment_type:enodia_deployment_trouble:bool{%})) or vector(0)`, "in trouble"]],
    { red: 1 },
  ),
  panel(
    "Operators that lead",
    "1 while one replica holds the lease. At 0 nothing is repaired, scaled or balanced; what runs goes on serving.",
    "none",
    [["sum(enodia_operator_leader)", "leaders"]],
  ),
];

const tables: readonly Panel[] = [
  panel(
    "What is wrong",
    "Conditions that tell of trouble, one line each. `kubectl describe moed` has their messages with the remedy. Deployments that want no ranks are not here.",
    "none",
    [["deployment_type:enodia_deployment_trouble:bool{%}", `${name} {{type}}`]],
  ),
];

const deployments: readonly Panel[] = [
  fromZero(
    "Ranks that serve",
    "Of each deployment, beside those that are wanted.",
    "none",
    [
      [`max by (${by}) (enodia_deployment_ranks{state="active", %})`, name],
      [`max by (${by}) (enodia_deployment_replicas{state="desired", %})`, `${name} wanted`],
    ],
    { part: "Deployments" },
  ),
  fromZero("Output tokens per second", "Written by the gateways of each deployment.", "short", [
    ['deployment:enodia_gateway_tokens:rate5m{kind="output", %}', name],
  ]),
  fromZero("Requests per second", "Of each deployment, also those that were refused.", "reqps", [
    ["deployment:enodia_gateway_requests:rate5m{%}", name],
  ]),
  fromZero("Share of requests that fail", "Answered with a status of 500 or more.", "percentunit", [
    ["deployment:enodia_gateway_errors:ratio_rate5m{%}", name],
  ]),
  fromZero("Time to the first token, p99", "From the parsed request to its first token.", "s", [
    ['deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.99", %}', name],
  ]),
  fromZero("KV memory in use", "Share of KV blocks that running requests hold. At 1 requests wait or are computed again.", "percentunit", [
    ["deployment:enodia_worker_kv_used:ratio{%}", name],
  ]),
];

const machinery: readonly Panel[] = [
  fromZero(
    "Reconciles",
    "Per second, by controller and result.",
    "ops",
    [[`sum by (controller, result) (rate(enodia_operator_reconciles_total[${rate}]))`, "{{controller}} {{result}}"]],
    { part: "The operator" },
  ),
  fromZero(
    "Time of a reconcile, p99",
    "By controller. It grows with the number of deployments and with the API server's delay.",
    "s",
    [
      [
        `histogram_quantile(0.99, sum by (controller, le) (rate(enodia_operator_reconcile_duration_seconds_bucket[${rate}])))`,
        "{{controller}}",
      ],
    ],
    { traced: true },
  ),
  fromZero("Keys that wait", "In the work queues. More than zero for long means that reconciles come slower than changes.", "none", [
    ["sum by (controller) (enodia_operator_queue_depth)", "{{controller}}"],
  ]),
  fromZero(
    "Age of what is known of the cluster",
    "Seconds since the last event or bookmark of each kind. Bookmarks come about once a minute.",
    "s",
    [["time() - max by (kind) (enodia_operator_informer_last_event_timestamp_seconds)", "{{kind}}"]],
  ),
  fromZero("Memory", "Resident memory and JavaScript heap of the operator's replica that has most of it.", "bytes", [
    [`max(enodia_process_resident_memory_bytes{${operator}})`, "resident"],
    [`max(enodia_process_heap_used_bytes{${operator}})`, "heap"],
  ]),
  fromZero(
    "CPU and delay of the event loop",
    "CPU of all replicas of the operator together, and the 99th percentile of the delay of the slowest.",
    "none",
    [
      [`sum(rate(enodia_process_cpu_seconds_total{${operator}}[${rate}]))`, "CPUs"],
      [`max(enodia_event_loop_delay_seconds{quantile="0.99", ${operator}})`, "delay in seconds"],
    ],
  ),
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
