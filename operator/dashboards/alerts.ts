// The alerts as data; generated into the chart's PrometheusRule. Silence is an alert too: where no operator leads or none is
// scraped, the others cannot fire, and EnodiaNoLeader does.

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly severity: "warning" | "critical";
  readonly summary: string;
  readonly description: string;
}

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
    alert: "EnodiaTelemetryStale",
    expr: 'max by (namespace, deployment) (enodia_telemetry_age_seconds) > 60 or max by (namespace, deployment) (enodia_deployment_condition{type="TelemetryFresh", status="False"}) == 1',
    for: "2m",
    severity: "warning",
    summary: "Expert load of {{ $labels.namespace }}/{{ $labels.deployment }} is stale",
    description:
      "Workers have not reported load for over a minute. Serving goes on with the last placement; nothing is balanced. Check NATS and the TelemetryFresh condition.",
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
];
