// The alerts and recording rules, generated into the chart. Each alert has a page in charts/enodia/docs/runbooks and a fault in
// test/kit/dashboards/alert-faults.ts.
import type { MoEDeploymentConditionType } from "../../crds/moe-deployment-status.ts";

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly severity: "warning" | "critical";
  readonly summary: string;
  readonly description: string;
}

/** Fraction of failed requests; a lost worker fails none. */
const failedShare = 0.05;
const byJob = "training_namespace, training_job";
const jobName = "{{ $labels.training_namespace }}/{{ $labels.training_job }}";
/** Time without a step beyond the furthest; comparing windows ignores repeated steps. */
const stallMinutes = 30;
/** Busiest expert over the mean: 2 and more without a balance loss, below 1.5 with one. */
export const imbalanceBound = 3;
const imbalanceMinutes = 30;
const furthest = (at: string): string => `max by (${byJob}) (max_over_time(enodia_training_step[${stallMinutes}m]${at}))`;
const alwaysActive = `min by (${byJob}) (min_over_time(enodia_training_active[${stallMinutes}m])) == 1`;
/** Both windows belong to this job, not to a namesake before it. */
const oldEnough = `time() - max by (${byJob}) (enodia_training_created_timestamp_seconds) > ${2 * stallMinutes * 60}`;

const missSeconds = (kind: string): string => `max by (namespace, deployment) (enodia_expert_miss_load_seconds{kind="${kind}"})`;

export const alerts: readonly Alert[] = [
  {
    alert: "EnodiaNoLeader",
    expr: "absent(enodia_operator_leader == 1)",
    for: "5m",
    severity: "critical",
    summary: "No Enodia operator leads",
    description:
      "No operator replica holds the lease, or none is scraped. Running deployments go on serving; nothing is repaired, scaled or balanced. Check the operator's pods, their logs, and the ServiceMonitor.",
  },
  {
    alert: "EnodiaNotReady",
    expr: 'max by (namespace, deployment) (deployment_type:enodia_deployment_trouble:bool{type="Ready"}) == 1',
    for: "15m",
    severity: "warning",
    summary: "{{ $labels.namespace }}/{{ $labels.deployment }} is not ready",
    description:
      "For 15 minutes fewer ranks serve than are wanted, or no gateway is ready. The conditions Ready and Progressing of the MoEDeployment say why, with the remedy.",
  },
  {
    alert: "EnodiaRequestsFail",
    expr: `deployment:enodia_gateway_errors:ratio_rate5m > ${failedShare}`,
    for: "5m",
    severity: "critical",
    summary: "{{ $value | humanizePercentage }} of requests to {{ $labels.namespace }}/{{ $labels.deployment }} fail",
    description: `Over 5 minutes more than ${failedShare * 100}% of requests were answered with a status of 500 or more. The gateway's log has each with its id, and enodia_gateway_rejected_total the reasons of those that were refused.`,
  },
  {
    alert: "EnodiaTelemetryStale",
    expr: 'max by (namespace, deployment) (enodia_telemetry_age_seconds) > 60 or max by (namespace, deployment) (enodia_deployment_condition{type="TelemetryFresh", status="False"}) == 1',
    for: "2m",
    severity: "warning",
    summary: "Expert load of {{ $labels.namespace }}/{{ $labels.deployment }} is stale",
    description:
      "Workers have not reported load for over a minute. Serving goes on with the last placement; nothing is balanced. Check the TelemetryFresh condition.",
  },
  {
    alert: "EnodiaRanksLost",
    expr: 'max by (namespace, deployment) (enodia_deployment_ranks{state="lost"}) > 0',
    for: "2m",
    severity: "critical",
    summary: "{{ $value }} ranks of {{ $labels.namespace }}/{{ $labels.deployment }} are lost",
    description:
      "Lost ranks are routed around and their experts were loaded elsewhere, but no replacement has become active. Check pending pods and node health.",
  },
  {
    alert: "EnodiaRebalanceStalled",
    expr: "max by (namespace, deployment) (enodia_rebalance_in_progress) == 1 and time() > max by (namespace, deployment) (enodia_rebalance_deadline_timestamp_seconds) + 60",
    for: "1m",
    severity: "warning",
    summary: "A rebalance of {{ $labels.namespace }}/{{ $labels.deployment }} makes no progress",
    description:
      "A plan is under way more than a minute after its deadline, by which it should have been committed or rolled back. See the ExpertPlacement status and the operator's log.",
  },
  {
    alert: "EnodiaExpertLoadsSlow",
    expr: `${missSeconds("measured")} > 2 * ${missSeconds("predicted")} > 0`,
    for: "10m",
    severity: "warning",
    summary: "Tokens of {{ $labels.namespace }}/{{ $labels.deployment }} wait for experts twice as long as predicted",
    description:
      "Ranks serve more experts than their memory holds, and for 10 minutes the rank that loads longest has taken more than twice the predicted time for a token. Texts stay the same and come slower. The condition ExpertsOversubscribed has the figures; check its node's disk, or raise experts.memoryPerRank.",
  },
  {
    alert: "EnodiaAutoscalerHeld",
    expr: 'max by (namespace, deployment) (enodia_autoscale_frozen) == 1 or max by (namespace, deployment) (enodia_autoscale_ranks{state="asked"}) > max by (namespace, deployment) (enodia_autoscale_ranks{state="most"})',
    for: "30m",
    severity: "warning",
    summary: "The autoscaler of {{ $labels.namespace }}/{{ $labels.deployment }} cannot follow the load",
    description:
      "For 30 minutes it has set nothing, since a rank is not heard or somebody else sets replicas, or the load has asked for more ranks than elasticity.autoscale.max. The condition ScalingActive says which, with names and the remedy.",
  },
  {
    alert: "EnodiaRolledBack",
    expr: "max by (namespace, deployment) (enodia_rollout_rolled_back) == 1",
    for: "0s",
    severity: "warning",
    summary: "A roll of {{ $labels.namespace }}/{{ $labels.deployment }} was rolled back",
    description:
      "Ranks have the last template with which all of them served, and the spec still asks for the one that failed. The condition SpecAccepted and status.rollout.rolledBack say why. The alert ends when the spec names another template, or the roll is tried again.",
  },
  {
    alert: "EnodiaRollStalled",
    expr: 'max by (namespace, deployment) (enodia_operation_active{type="Roll"}) == 1 and time() > max by (namespace, deployment) (enodia_operation_deadline_timestamp_seconds) + 60',
    for: "5m",
    severity: "warning",
    summary: "A roll of {{ $labels.namespace }}/{{ $labels.deployment }} stands past its deadline",
    description:
      "A roll, or its way back, is under way more than six minutes after its deadline. Serving goes on with the ranks that there are. The condition Progressing and status.operation say what it waits for.",
  },
  {
    alert: "EnodiaTrainingStalled",
    expr: `${alwaysActive} and ${furthest("")} <= ${furthest(` offset ${stallMinutes}m`)} and ${oldEnough}`,
    for: "5m",
    severity: "warning",
    summary: `Training job ${jobName} makes no new step`,
    description: `For ${stallMinutes} minutes the job should train and has made no step beyond its furthest. Its conditions SpecAccepted and Running say why: a refused spec, a pod that is pending, one that fails again and again. Where steps are made again for so long after each restart, lower checkpoint.everySteps.`,
  },
  {
    alert: "EnodiaTrainingDiverged",
    expr: `max by (${byJob}) (enodia_training_failed{reason="NonFiniteLoss"}) == 1`,
    for: "0s",
    severity: "critical",
    summary: `The loss of training job ${jobName} is no number`,
    description:
      "A loss or a gradient was not finite; trying again would give the same bits, so the job has failed for good. Its condition Failed names the step and the documents. Make another job with another output.uri, and a lower optimizer.learningRate or optimizer.clip, or data without these documents. The alert ends with the job's object.",
  },
  {
    alert: "EnodiaTrainingFailed",
    expr: `max by (${byJob}, reason) (enodia_training_failed{reason!="NonFiniteLoss"}) == 1`,
    for: "0s",
    severity: "critical",
    summary: `Training job ${jobName} has failed: {{ $labels.reason }}`,
    description:
      "Its pods failed more often than failurePolicy.maxRestarts. The condition Failed and status.lastFailure say of what. Checkpoints stay in output.uri. The alert ends with the job's object.",
  },
  {
    alert: "EnodiaTrainingImbalanced",
    expr: `max by (${byJob}) (avg_over_time(enodia_training_imbalance_ratio[${imbalanceMinutes}m])) > ${imbalanceBound} and max by (${byJob}) (enodia_training_active) == 1`,
    for: "10m",
    severity: "warning",
    summary: `Training job ${jobName} leaves most of its experts idle`,
    description: `Over ${imbalanceMinutes} minutes the busiest expert had more than ${imbalanceBound} times the mean of rows, in the layer where that is most. Steps wait for it, and experts without rows learn nothing. Begin another job with spec.balance, switch:0.01 for one, or with more of it.`,
  },
];

/** A recording rule, named level:metric:operations. */
export interface Recording {
  readonly record: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const byDeployment = "namespace, deployment";
/** Two scrapes at intervals up to two minutes. */
const window = "5m";

const quantiles = (histogram: string): Recording[] =>
  ["0.5", "0.99"].map((quantile) => ({
    record: `deployment:${histogram}:quantile_rate${window}`,
    expr: `histogram_quantile(${quantile}, sum by (${byDeployment}, le) (rate(${histogram}_bucket[${window}])))`,
    labels: { quantile },
  }));

/** Conditions that mean trouble while False; the next list while True. */
const troubleWhenFalse: readonly MoEDeploymentConditionType[] = ["Ready", "Available", "SpecAccepted", "ModelAvailable", "TelemetryFresh"];
const troubleWhenTrue: readonly MoEDeploymentConditionType[] = ["Degraded", "FieldConflict"];
const troubled = (types: readonly MoEDeploymentConditionType[], status: "True" | "False"): string =>
  `max by (${byDeployment}, type) (enodia_deployment_condition{type=~"${types.join("|")}", status="${status}"}) == 1`;
/** Neither suspended nor scaled to zero. */
const wantsRanks = `max by (${byDeployment}) (enodia_deployment_replicas{state="desired"}) > 0`;

const requests = `deployment:enodia_gateway_requests:rate${window}`;
const errors = `sum by (${byDeployment}) (rate(enodia_gateway_requests_total{code=~"5.."}[${window}]))`;

export const recordings: readonly Recording[] = [
  { record: requests, expr: `sum by (${byDeployment}) (rate(enodia_gateway_requests_total[${window}]))` },
  {
    record: `deployment:enodia_gateway_errors:ratio_rate${window}`,
    // A deployment without errors has no error series; one without requests has no ratio.
    expr: `(${errors} or 0 * ${requests}) / (${requests} > 0)`,
  },
  {
    record: `deployment:enodia_gateway_tokens:rate${window}`,
    expr: `sum by (${byDeployment}, kind) (rate(enodia_gateway_tokens_total[${window}]))`,
  },
  ...quantiles("enodia_gateway_time_to_first_token_seconds"),
  ...quantiles("enodia_gateway_inter_token_seconds"),
  {
    record: "deployment:enodia_worker_kv_used:ratio",
    expr: `sum by (${byDeployment}) (enodia_worker_kv_blocks{state="used"}) / sum by (${byDeployment}) (enodia_worker_kv_blocks)`,
  },
  {
    record: "deployment_type:enodia_deployment_trouble:bool",
    expr: `(${troubled(troubleWhenFalse, "False")} or ${troubled(troubleWhenTrue, "True")}) and on (${byDeployment}) (${wantsRanks})`,
  },
];
