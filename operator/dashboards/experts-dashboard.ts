// The Experts dashboard: balance, moves, bytes, ranks and the age of telemetry.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { dashboardOf, fromZero, type Panel, panel, rate } from "./panels.ts";

const by = "namespace, deployment";
const byRank = `${by}, rank`;

const stats: readonly Panel[] = [
  panel(
    "Worst-layer imbalance",
    "Rows computed on the busiest rank over the mean of all ranks, in the layer where that is worst. 1 is perfect.",
    "none",
    [['max(enodia_expert_imbalance_ratio{layer_agg="max", %})', "max / mean"]],
    { red: 1.5 },
  ),
  panel(
    "Ranks lost",
    "Ranks that do not serve and are routed around. Their experts are loaded again on the others.",
    "none",
    [['sum(enodia_deployment_ranks{state="lost", %})', "lost"]],
    { red: 1 },
  ),
  panel(
    "Experts unhosted",
    "(layer, expert) pairs without a live expert replica, also while a restarted rank loads: requests for them wait for a load from a peer or the model store.",
    "none",
    [["sum(enodia_experts_unhosted{%})", "experts"]],
    { red: 1 },
  ),
  panel(
    "Telemetry age",
    "Age of the oldest last load message among active ranks. Past spec.telemetry.staleAfter nothing is moved.",
    "s",
    [["max(enodia_telemetry_age_seconds{%})", "age"]],
    { red: 30 },
  ),
];

const series: readonly Panel[] = [
  panel(
    "Imbalance and what memory allows",
    "Worst layer and mean of layers, with the lowest imbalance that the memory budget allows for the same load.",
    "none",
    [
      [`max by (${by}, layer_agg) (enodia_expert_imbalance_ratio{%})`, "{{deployment}} {{layer_agg}}"],
      [`max by (${by}) (enodia_expert_imbalance_bound_ratio{layer_agg="max", %})`, "{{deployment}} bound"],
    ],
    { min: 1 },
  ),
  panel("Expert rows per rank", "Rows computed per second by each rank, for its own tokens and for others.", "short", [
    [`sum by (${byRank}) (rate(enodia_expert_rows_total{%}[${rate}]))`, "{{deployment}} rank {{rank}}"],
  ]),
  panel("Moves", "Expert replicas newly placed by committed plans.", "short", [
    [`sum by (${by}) (increase(enodia_expert_moves_total{%}[${rate}]))`, "{{deployment}}"],
  ]),
  panel("Bytes moved", "Stored bytes of experts received, by where they came from.", "Bps", [
    [`sum by (source) (rate(enodia_shard_fetch_bytes_total{%}[${rate}]))`, "{{source}}"],
  ]),
  fromZero(
    "Transfer rate allowed",
    "What each rank may receive for balance now: budget.maxTransferBytesPerSecond, less while tokens come slower; 0 = no move.",
    "Bps",
    [[`max by (${byRank}) (enodia_transfer_rate_bytes_per_second{%})`, "{{deployment}} rank {{rank}}"]],
  ),
  fromZero("Transfer back-offs", "Times a rank halved that rate, since tokens had become slower.", "short", [
    [`sum by (${byRank}) (increase(enodia_transfer_backoffs_total{%}[${rate}]))`, "{{deployment}} rank {{rank}}"],
  ]),
  panel("Rebalances and why not", "Decisions of the planner by result and reason; held = it looked and did not move.", "short", [
    [`sum by (result, reason) (increase(enodia_rebalances_total{%}[${rate}]))`, "{{result}}: {{reason}}"],
  ]),
  panel(
    "Plans: predicted and proposed",
    "Worst layer for the forecast load under the committed plan and under the one last proposed; the difference is what that would gain.",
    "none",
    [[`max by (${by}, plan) (enodia_predicted_imbalance_ratio{%})`, "{{deployment}} {{plan}}"]],
    { min: 1 },
  ),
  fromZero(
    "Plans: gain and cost",
    "Layer time that the plan last proposed saves while its forecast holds, and what its transfers cost.",
    "s",
    [
      [`max by (${by}) (enodia_proposed_gain_seconds{%})`, "{{deployment}} gain"],
      [`max by (${by}) (enodia_proposed_cost_seconds{%})`, "{{deployment}} cost"],
    ],
  ),
  fromZero(
    "Forecast error",
    "Part of the load that the forecast missed in recent windows, beside what chance alone gives; 1 = the load has just changed.",
    "percentunit",
    [
      [`max by (${by}) (enodia_forecast_error_ratio{%})`, "{{deployment}} error"],
      [`max by (${by}) (enodia_forecast_noise_floor_ratio{%})`, "{{deployment}} chance"],
      [`max by (${by}) (enodia_forecast_changed{%})`, "{{deployment}} changed"],
    ],
  ),
  fromZero("Ranks", "Ranks by state.", "none", [["sum by (state) (enodia_deployment_ranks{%})", "{{state}}"]]),
  fromZero(
    "Experts at risk",
    "(layer, expert) pairs whose live expert replicas are all on one node; spec.experts.minExpertReplicas keeps this at zero.",
    "none",
    [
      [`max by (${by}) (enodia_experts_at_risk{%})`, "{{deployment}}"],
      [`max by (${by}) (enodia_experts_unhosted{%})`, "{{deployment}} unhosted"],
    ],
  ),
  fromZero("Expert memory per rank", "Resident bytes of hosted experts against the budget.", "bytes", [
    [`sum by (${byRank}) (enodia_expert_hosted_bytes{%})`, "{{deployment}} rank {{rank}}"],
    [`max by (${by}) (enodia_expert_budget_bytes{%})`, "{{deployment}} budget"],
  ]),
  fromZero("Experts loaded for a token", "Where ranks serve more than their memory holds.", "none", [
    [`max by (${by}, kind) (enodia_expert_miss_loads_ratio{%})`, "{{deployment}} {{kind}}"],
  ]),
  fromZero(
    "Loads for a token",
    "Time of these loads at the rank that loads longest, beside what the plan predicts at the median rank's rate.",
    "s",
    [[`max by (${by}, kind) (enodia_expert_miss_load_seconds{%})`, "{{deployment}} {{kind}}"]],
  ),
  fromZero("Telemetry age", "Seconds since the oldest last load message of an active rank.", "s", [
    [`max by (${by}) (enodia_telemetry_age_seconds{%})`, "{{deployment}}"],
  ]),
  fromZero("Time between tokens", "As clients see it, failovers included, over five minutes.", "s", [
    ["deployment:enodia_gateway_inter_token_seconds:quantile_rate5m{%}", "{{deployment}} {{quantile}}"],
  ]),
  panel("Plan epoch", "Epoch of the placement and how far the slowest rank is behind it.", "none", [
    [`max by (${by}) (enodia_placement_epoch{%})`, "{{deployment}} epoch"],
    [`max by (${by}) (enodia_placement_epoch_lag{%})`, "{{deployment}} lag"],
  ]),
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
