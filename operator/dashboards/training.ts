// The Training dashboard: progress, losses, speed, and use of experts and ranks.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { imbalanceBound } from "./alerts.ts";
import { dashboardOf, fromZero, type Panel, panel } from "./panels.ts";

const by = "training_namespace, training_job";
const job = "{{training_job}}";

const stats: readonly Panel[] = [
  panel("Progress", "Share of the steps that are done, of the job that is least far.", "percentunit", [
    [`min(max by (${by}) (enodia_training_step{%}) / max by (${by}) (enodia_training_steps{%}))`, "done"],
  ]),
  panel("Active jobs", "Jobs that should train: neither over nor suspended.", "none", [["sum(enodia_training_active{%})", "active"]]),
  panel(
    "Failed jobs",
    "Jobs that have failed for good: of a loss that is no number, or of more failed pods than they may have.",
    "none",
    [["sum(enodia_training_failed{%})", "failed"]],
    { red: 1 },
  ),
  panel(
    "Busiest expert",
    "Rows of the busiest expert over the mean, of the job and the layer where that is most. 1 is even.",
    "none",
    [["max(enodia_training_imbalance_ratio{%})", "max / mean"]],
    { red: imbalanceBound },
  ),
];

const series: readonly Panel[] = [
  panel("Loss", "Of the last step, and of the validation data at the newest checkpoint.", "none", [
    [`max by (${by}) (enodia_training_loss{%})`, job],
    [`max by (${by}) (enodia_training_validation_loss{%})`, `${job} validation`],
  ]),
  fromZero("Gradient norm", "Of the last step, before it is clipped. A norm that grows comes before a loss that is no number.", "none", [
    [`max by (${by}) (enodia_training_gradient_norm{%})`, job],
  ]),
  fromZero("Tokens per second", "Over the last steps; 0 while no pod trains.", "short", [
    [`max by (${by}) (enodia_training_tokens_per_second{%})`, job],
  ]),
  fromZero(
    "Step",
    "The last step that is known to be done, and the steps in all. It falls where a job goes on from a checkpoint.",
    "none",
    [
      [`max by (${by}) (enodia_training_step{%})`, job],
      [`max by (${by}) (enodia_training_steps{%})`, `${job} in all`],
    ],
  ),
  fromZero("Progress", "Share of the steps that are done.", "percentunit", [
    [`max by (${by}) (enodia_training_step{%}) / max by (${by}) (enodia_training_steps{%})`, job],
  ]),
  panel(
    "Busiest expert over the mean",
    "Rows in the last step, in the layer where that is most. spec.balance keeps it low.",
    "none",
    [[`max by (${by}) (enodia_training_imbalance_ratio{%})`, job]],
    { min: 1 },
  ),
  fromZero(
    "Load share of experts",
    "Shares of a layer's rows in the last step, from the idlest expert to the busiest, in the layer that is least even.",
    "percentunit",
    [[`max by (${by}, quantile) (enodia_training_expert_share_ratio{%})`, `${job} {{quantile}}`]],
  ),
  panel(
    "Busiest rank over the mean",
    "Rows in the last step, in the layer where that is most: were experts at their primaries alone, and with copies.",
    "none",
    [[`max by (${by}, placement) (enodia_training_rank_imbalance_ratio{%})`, `${job} {{placement}}`]],
    { min: 1 },
  ),
  fromZero("Experts with copies", "Share of experts that were on more than one rank in the last step: lambda.", "percentunit", [
    [`max by (${by}) (enodia_training_copied_ratio{%})`, job],
  ]),
  fromZero(
    "Exposed communication",
    "Time of the last step in which the first rank waited for copies and sums of gradients alone; the rest was hidden.",
    "s",
    [[`max by (${by}) (enodia_training_exposed_seconds{%})`, job]],
  ),
  fromZero("Bytes of copies and sums", "What the first rank sent of them in the last step.", "bytes", [
    [`max by (${by}) (enodia_training_moved_bytes{%})`, job],
  ]),
  fromZero("Restarts", "Pods that failed and were replaced. Past spec.failurePolicy.maxRestarts the job is failed.", "none", [
    [`max by (${by}) (enodia_training_restarts{%})`, job],
  ]),
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
