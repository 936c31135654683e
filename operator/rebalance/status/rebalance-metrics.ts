// The metrics of the rebalance plane: gauges of load, plans and ranks, set at every scrape, and counts of finished plans.
import type { Metrics } from "../../../runtime/observe/runtime-metrics.ts";
import type { RebalanceView } from "../../deployment/ports.ts";
import type { Ref } from "../../kube/kube.ts";
import type { LoadSnapshot } from "../observed.ts";
import type { PlanEnd } from "../rollout/proposal.ts";
import { oversubscribedFigures } from "./oversubscribed.ts";

export interface LoadView {
  readonly load: LoadSnapshot | undefined;
  /** The age of load messages; undefined without a NATS server. */
  readonly ageMs: number | undefined;
}

function labelsOf(ref: Ref) {
  return { namespace: ref.namespace, deployment: ref.name };
}

export function forgetMetrics(metrics: Pick<Metrics<"operator">, "forget">, ref: Ref): void {
  metrics.forget(labelsOf(ref));
}

/** Call it at every scrape, since the age also grows between windows. */
export function recordLoad(metrics: Pick<Metrics<"operator">, "set" | "unset">, ref: Ref, { load, ageMs }: LoadView): void {
  const labels = labelsOf(ref);
  if (ageMs === undefined) metrics.unset("enodia_telemetry_age_seconds", labels);
  else metrics.set("enodia_telemetry_age_seconds", ageMs / 1000, labels);
  if (load) recordBalance(metrics, labels, load);
  for (const { name, kind, value } of oversubscribedFigures(load?.tiers)) {
    if (value === undefined) metrics.unset(name, { ...labels, kind });
    else metrics.set(name, value, { ...labels, kind });
  }
}

type DeploymentLabels = ReturnType<typeof labelsOf>;

function recordBalance(metrics: Pick<Metrics<"operator">, "set">, labels: DeploymentLabels, load: LoadSnapshot): void {
  if (load.measured) {
    metrics.set("enodia_expert_imbalance_ratio", load.measured.worst, { ...labels, layer_agg: "max" });
    metrics.set("enodia_expert_imbalance_ratio", load.measured.mean, { ...labels, layer_agg: "mean" });
  }
  for (const { phase, worst, mean } of load.phases) {
    metrics.set("enodia_expert_phase_imbalance_ratio", worst, { ...labels, phase, layer_agg: "max" });
    metrics.set("enodia_expert_phase_imbalance_ratio", mean, { ...labels, phase, layer_agg: "mean" });
  }
  if (load.bound !== undefined && Number.isFinite(load.bound))
    metrics.set("enodia_expert_imbalance_bound_ratio", load.bound, { ...labels, layer_agg: "max" });
  recordDecisions(metrics, labels, load);
}

function recordDecisions(metrics: Pick<Metrics<"operator">, "set">, labels: DeploymentLabels, load: LoadSnapshot): void {
  const { predicted, judged, outlook } = load;
  if (predicted !== undefined) metrics.set("enodia_predicted_imbalance_ratio", predicted, { ...labels, plan: "committed" });
  if (judged) {
    const { gainSeconds, costSeconds } = judged.decision.numbers;
    metrics.set("enodia_predicted_imbalance_ratio", judged.after, { ...labels, plan: "proposed" });
    metrics.set("enodia_proposed_moves", judged.moves, labels);
    if (gainSeconds !== undefined) metrics.set("enodia_proposed_gain_seconds", gainSeconds, labels);
    if (costSeconds !== undefined) metrics.set("enodia_proposed_cost_seconds", costSeconds, labels);
  }
  if (!outlook) return;
  metrics.set("enodia_forecast_newest_weight_ratio", outlook.arm, labels);
  metrics.set("enodia_forecast_error_ratio", outlook.error, labels);
  metrics.set("enodia_forecast_noise_floor_ratio", outlook.noiseFloor, labels);
  metrics.set("enodia_forecast_changed", outlook.changed ? 1 : 0, labels);
}

export function recordView(metrics: Metrics<"operator">, ref: Ref, view: RebalanceView | undefined): void {
  if (!view) return;
  const labels = labelsOf(ref);
  const epoch = view.placement?.epoch ?? 0;
  const active = view.members.filter((member) => member.active);
  metrics.set("enodia_placement_epoch", epoch, labels);
  metrics.set("enodia_placement_epoch_lag", Math.max(0, epoch - Math.min(epoch, ...active.map((member) => member.epoch))), labels);
  metrics.set("enodia_experts_unhosted", view.unhostedExperts, labels);
  metrics.set("enodia_experts_at_risk", view.expertsAtRisk, labels);
  const last = view.telemetry?.lastSampleTime;
  if (last) metrics.set("enodia_telemetry_last_sample_timestamp_seconds", Date.parse(last) / 1000, labels);
}

export function recordRollout(
  metrics: Metrics<"operator">,
  ref: Ref,
  running: { readonly startedMs: number; readonly deadlineMs: number } | undefined,
  done: PlanEnd | undefined,
): void {
  const labels = labelsOf(ref);
  metrics.set("enodia_rebalance_in_progress", running ? 1 : 0, labels);
  if (running) {
    metrics.set("enodia_rebalance_started_timestamp_seconds", running.startedMs / 1000, labels);
    metrics.set("enodia_rebalance_deadline_timestamp_seconds", running.deadlineMs / 1000, labels);
  }
  if (!done) return;
  const { kind, result } = done;
  const reason = kind.charAt(0).toUpperCase() + kind.slice(1);
  const ended = result?.outcome ?? "superseded";
  const counted = ended === "superseded" ? "failed" : ended;
  metrics.add("enodia_rebalances_total", 1, { ...labels, result: counted, reason });
  if (!result) return;
  metrics.observe("enodia_rebalance_duration_seconds", result.durationMs / 1000, labels);
  if (counted === "committed") metrics.add("enodia_expert_moves_total", result.moves, labels);
  metrics.add("enodia_expert_move_bytes_total", result.bytes, labels);
}
