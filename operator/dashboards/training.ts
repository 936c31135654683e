// The Training dashboard: progress, losses, speed, and use of experts and ranks.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { imbalanceBound } from "./alerts.ts";
import { dashboardOf, type Panel } from "./panels.ts";

const by = "training_namespace, training_job";
const job = "{{training_job}}";

const stats: readonly Panel[] = [
  {
    title: "Progress",
    description: "Share of the steps that are done, of the job that is least far.",
    unit: "percentunit",
    queries: [{ expr: `min(max by (${by}) (enodia_training_step{%}) / max by (${by}) (enodia_training_steps{%}))`, legend: "done" }],
  },
  {
    title: "Active jobs",
    description: "Jobs that should train: neither over nor suspended.",
    unit: "none",
    queries: [{ expr: "sum(enodia_training_active{%})", legend: "active" }],
  },
  {
    title: "Failed jobs",
    description: "Jobs that have failed for good: of a loss that is no number, or of more failed pods than they may have.",
    unit: "none",
    queries: [{ expr: "sum(enodia_training_failed{%})", legend: "failed" }],
    red: 1,
  },
  {
    title: "Busiest expert",
    description: "Rows of the busiest expert over the mean, of the job and the layer where that is most. 1 is even.",
    unit: "none",
    queries: [{ expr: "max(enodia_training_imbalance_ratio{%})", legend: "max / mean" }],
    red: imbalanceBound,
  },
];

const series: readonly Panel[] = [
  {
    title: "Loss",
    description: "Of the last step, and of the validation data at the newest checkpoint.",
    unit: "none",
    queries: [
      { expr: `max by (${by}) (enodia_training_loss{%})`, legend: job },
      { expr: `max by (${by}) (enodia_training_validation_loss{%})`, legend: `${job} validation` },
    ],
  },
  {
    title: "Gradient norm",
    description: "Of the last step, before it is clipped. A norm that grows comes before a loss that is no number.",
    unit: "none",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_gradient_norm{%})`, legend: job }],
  },
  {
    title: "Tokens per second",
    description: "Over the last steps; 0 while no pod trains.",
    unit: "short",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_tokens_per_second{%})`, legend: job }],
  },
  {
    title: "Step",
    description: "The last step that is known to be done, and the steps in all. It falls where a job goes on from a checkpoint.",
    unit: "none",
    min: 0,
    queries: [
      { expr: `max by (${by}) (enodia_training_step{%})`, legend: job },
      { expr: `max by (${by}) (enodia_training_steps{%})`, legend: `${job} in all` },
    ],
  },
  {
    title: "Progress",
    description: "Share of the steps that are done.",
    unit: "percentunit",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_step{%}) / max by (${by}) (enodia_training_steps{%})`, legend: job }],
  },
  {
    title: "Busiest expert over the mean",
    description: "Rows in the last step, in the layer where that is most. spec.balance keeps it low.",
    unit: "none",
    min: 1,
    queries: [{ expr: `max by (${by}) (enodia_training_imbalance_ratio{%})`, legend: job }],
  },
  {
    title: "Load share of experts",
    description: "Shares of a layer's rows in the last step, from the idlest expert to the busiest, in the layer that is least even.",
    unit: "percentunit",
    min: 0,
    queries: [{ expr: `max by (${by}, quantile) (enodia_training_expert_share_ratio{%})`, legend: `${job} {{quantile}}` }],
  },
  {
    title: "Busiest rank over the mean",
    description: "Rows in the last step, in the layer where that is most: were experts at their primaries alone, and with copies.",
    unit: "none",
    min: 1,
    queries: [{ expr: `max by (${by}, placement) (enodia_training_rank_imbalance_ratio{%})`, legend: `${job} {{placement}}` }],
  },
  {
    title: "Experts with copies",
    description: "Share of experts that were on more than one rank in the last step: lambda.",
    unit: "percentunit",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_copied_ratio{%})`, legend: job }],
  },
  {
    title: "Exposed communication",
    description: "Time of the last step in which the first rank waited for copies and sums of gradients alone; the rest was hidden.",
    unit: "s",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_exposed_seconds{%})`, legend: job }],
  },
  {
    title: "Bytes of copies and sums",
    description: "What the first rank sent of them in the last step.",
    unit: "bytes",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_moved_bytes{%})`, legend: job }],
  },
  {
    title: "Restarts",
    description: "Pods that failed and were replaced. Past spec.failurePolicy.maxRestarts the job is failed.",
    unit: "none",
    min: 0,
    queries: [{ expr: `max by (${by}) (enodia_training_restarts{%})`, legend: job }],
  },
];

export const trainingDashboard = (): Dashboard =>
  dashboardOf({
    name: "Training",
    tags: ["training"],
    variables: ["training_namespace", "training_job"],
    known: "enodia_training_steps",
    back: "6h",
    annotation: { name: "Restarts", expr: "changes(enodia_training_restarts{%}[1m]) > 0" },
    stats,
    series,
  });
