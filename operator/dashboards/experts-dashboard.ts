// The Experts dashboard: balance, moves, bytes, ranks and the age of telemetry.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, type Panel, rate } from "./panels.ts";

const by = "namespace, deployment";
const byRank = `${by}, rank`;

const stats: readonly Panel[] = [
  {
    title: "Worst-layer imbalance",
    description: "Rows computed on the busiest rank over the mean of all ranks, in the layer where that is worst. 1 is perfect.",
    unit: "none",
    queries: [{ expr: 'max(enodia_expert_imbalance_ratio{layer_agg="max", %})', legend: "max / mean" }],
    red: 1.5,
  },
  {
    title: "Ranks lost",
    description: "Ranks that do not serve and are routed around. Their experts are loaded again on the others.",
    unit: "none",
    queries: [{ expr: 'sum(enodia_deployment_ranks{state="lost", %})', legend: "lost" }],
    red: 1,
  },
  {
    title: "Experts unhosted",
    description:
      "(layer, expert) pairs without a live expert replica, also while a restarted rank loads: requests for them wait for a load from a peer or the model store.",
    unit: "none",
    queries: [{ expr: "sum(enodia_experts_unhosted{%})", legend: "experts" }],
    red: 1,
  },
  {
    title: "Telemetry age",
    description: "Age of the oldest last load message among active ranks. Past spec.telemetry.staleAfter nothing is moved.",
    unit: "s",
    queries: [{ expr: "max(enodia_telemetry_age_seconds{%})", legend: "age" }],
    red: 30,
  },
];

const series: readonly Panel[] = [
  {
    title: "Imbalance and what memory allows",
    description: "Worst layer and mean of layers, with the lowest imbalance that the memory budget allows for the same load.",
    unit: "none",
    min: 1,
    queries: [
      { expr: `max by (${by}, layer_agg) (enodia_expert_imbalance_ratio{%})`, legend: "{{deployment}} {{layer_agg}}" },
      { expr: `max by (${by}) (enodia_expert_imbalance_bound_ratio{layer_agg="max", %})`, legend: "{{deployment}} bound" },
    ],
  },
  {
    title: "Expert rows per rank",
    description: "Rows computed per second by each rank, for its own tokens and for others.",
    unit: "short",
    queries: [{ expr: `sum by (${byRank}) (rate(enodia_expert_rows_total{%}[${rate}]))`, legend: "{{deployment}} rank {{rank}}" }],
  },
  {
    title: "Moves",
    description: "Expert replicas newly placed by committed plans.",
    unit: "short",
    queries: [{ expr: `sum by (${by}) (increase(enodia_expert_moves_total{%}[${rate}]))`, legend: "{{deployment}}" }],
  },
  {
    title: "Bytes moved",
    description: "Stored bytes of experts received, by where they came from.",
    unit: "Bps",
    queries: [{ expr: `sum by (source) (rate(enodia_shard_fetch_bytes_total{%}[${rate}]))`, legend: "{{source}}" }],
  },
  {
    title: "Transfer rate allowed",
    description:
      "What each rank may receive for balance now: budget.maxTransferBytesPerSecond, less while tokens come slower; 0 = no move.",
    unit: "Bps",
    min: 0,
    queries: [{ expr: `max by (${byRank}) (enodia_transfer_rate_bytes_per_second{%})`, legend: "{{deployment}} rank {{rank}}" }],
  },
  {
    title: "Transfer back-offs",
    description: "Times a rank halved that rate, since tokens had become slower.",
    unit: "short",
    min: 0,
    queries: [
      { expr: `sum by (${byRank}) (increase(enodia_transfer_backoffs_total{%}[${rate}]))`, legend: "{{deployment}} rank {{rank}}" },
    ],
  },
  {
    title: "Rebalances and why not",
    description: "Decisions of the planner by result and reason; held = it looked and did not move.",
    unit: "short",
    queries: [{ expr: `sum by (result, reason) (increase(enodia_rebalances_total{%}[${rate}]))`, legend: "{{result}}: {{reason}}" }],
  },
  {
    title: "Plans: predicted and proposed",
    description:
      "Worst layer for the forecast load under the committed plan and under the one last proposed; the difference is what that would gain.",
    unit: "none",
    min: 1,
    queries: [{ expr: `max by (${by}, plan) (enodia_predicted_imbalance_ratio{%})`, legend: "{{deployment}} {{plan}}" }],
  },
  {
    title: "Plans: gain and cost",
    description: "Layer time that the plan last proposed saves while its forecast holds, and what its transfers cost.",
    unit: "s",
    min: 0,
    queries: [
      { expr: `max by (${by}) (enodia_proposed_gain_seconds{%})`, legend: "{{deployment}} gain" },
      { expr: `max by (${by}) (enodia_proposed_cost_seconds{%})`, legend: "{{deployment}} cost" },
    ],
  },
  {
    title: "Forecast error",
    description:
      "Part of the load that the forecast missed in recent windows, beside what chance alone gives; 1 = the load has just changed.",
    unit: "percentunit",
    min: 0,
    queries: [
      { expr: `max by (${by}) (enodia_forecast_error_ratio{%})`, legend: "{{deployment}} error" },
      { expr: `max by (${by}) (enodia_forecast_noise_floor_ratio{%})`, legend: "{{deployment}} chance" },
      { expr: `max by (${by}) (enodia_forecast_changed{%})`, legend: "{{deployment}} changed" },
    ],
  },
  {
    title: "Ranks",
    description: "Ranks by state.",
    unit: "none",
    min: 0,
    queries: [{ expr: "sum by (state) (enodia_deployment_ranks{%})", legend: "{{state}}" }],
  },
  {
    title: "Experts at risk",
    description: "(layer, expert) pairs whose live expert replicas are all on one node; spec.experts.minExpertReplicas keeps this at zero.",
    unit: "none",
    min: 0,
    queries: [
      { expr: `max by (${by}) (enodia_experts_at_risk{%})`, legend: "{{deployment}}" },
      { expr: `max by (${by}) (enodia_experts_unhosted{%})`, legend: "{{deployment}} unhosted" },
    ],
  },
  {
    title: "Expert memory per rank",
    description: "Resident bytes of hosted experts against the budget.",
    unit: "bytes",
    min: 0,
    queries: [
      { expr: `sum by (${byRank}) (enodia_expert_hosted_bytes{%})`, legend: "{{deployment}} rank {{rank}}" },
      { expr: `max by (${by}) (enodia_expert_budget_bytes{%})`, legend: "{{deployment}} budget" },
    ],
  },
  {
    title: "Telemetry age",
    description: "Seconds since the oldest last load message of an active rank.",
    unit: "s",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_telemetry_age_seconds{%})`, legend: "{{deployment}}" }],
  },
  {
    title: "Time between tokens",
    description: "As clients see it, failovers included, over five minutes.",
    unit: "s",
    min: 0,
    queries: [{ expr: "deployment:enodia_gateway_inter_token_seconds:quantile_rate5m{%}", legend: "{{deployment}} {{quantile}}" }],
  },
  {
    title: "Plan epoch",
    description: "Epoch of the placement and how far the slowest rank is behind it.",
    unit: "none",
    queries: [
      { expr: `max by (${by}) (enodia_placement_epoch{%})`, legend: "{{deployment}} epoch" },
      { expr: `max by (${by}) (enodia_placement_epoch_lag{%})`, legend: "{{deployment}} lag" },
    ],
  },
];

export const expertsDashboard = (): Dashboard =>
  dashboardOf({
    name: "Experts",
    tags: ["mixture-of-experts"],
    variables: ["namespace", "deployment"],
    known: "enodia_deployment_replicas",
    back: "30m",
    annotation: { name: "Rebalances", expr: "changes(enodia_rebalance_started_timestamp_seconds{%}[1m]) > 0" },
    stats,
    series,
  });
