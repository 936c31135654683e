// Metrics of the deployment plane: gauges read from cached statuses at each scrape, and counted rollbacks.
import { autoscaleMetrics } from "../../crds/autoscale.ts";
import { conditionStatuses } from "../../crds/conditions.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { autoscaleFaults } from "../../crds/names.ts";
import { operationTypes } from "../../crds/operation.ts";
import { type RollbackReason, type RolledBack, rollbackReasons } from "../../crds/rollout.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import type { KubeObject } from "../kube/kube.ts";

type Gauges = Pick<Metrics<"operator">, "set" | "unset">;

export function recordStatus(metrics: Gauges, objects: readonly KubeObject[]): void {
  for (const object of objects) {
    try {
      record(metrics, object);
    } catch {
      // an object that cannot be read has SpecAccepted=False and no gauges
    }
  }
}

function record(metrics: Gauges, object: KubeObject): void {
  const { metadata, spec, status } = parseMoEDeployment(object);
  const labels = { namespace: metadata.namespace, deployment: metadata.name };
  const replicas = status.replicas ?? 0;
  const active = status.expertParallel?.activeRanks ?? 0;
  const lost = status.expertParallel?.lostRanks?.length ?? 0;
  const desired = status.expertParallel?.desiredRanks ?? spec.replicas;
  metrics.set("enodia_deployment_replicas", spec.suspend ? 0 : spec.replicas, { ...labels, state: "desired" });
  metrics.set("enodia_deployment_replicas", replicas, { ...labels, state: "allocated" });
  metrics.set("enodia_deployment_replicas", status.readyReplicas ?? 0, { ...labels, state: "ready" });
  // Ranks that start or crash are on their way, not lost.
  const repairing = status.conditions?.some((one) => one.type === "Degraded" && one.status === "True" && one.reason === "RanksLost");
  metrics.set("enodia_deployment_ranks", active, { ...labels, state: "active" });
  metrics.set("enodia_deployment_ranks", repairing ? lost : 0, { ...labels, state: "lost" });
  metrics.set("enodia_deployment_ranks", repairing ? 0 : Math.max(0, Math.min(desired, replicas) - active), {
    ...labels,
    state: "joining",
  });
  metrics.set("enodia_deployment_ranks", Math.max(0, replicas - desired), { ...labels, state: "draining" });
  recordAutoscale(metrics, { spec, status }, labels);
  recordOperation(metrics, labels, status);
  for (const condition of status.conditions ?? []) {
    for (const value of conditionStatuses) {
      metrics.set("enodia_deployment_condition", condition.status === value ? 1 : 0, { ...labels, type: condition.type, status: value });
    }
  }
}

/** Unknown values have no series, rather than 0. */
function recordAutoscale(
  metrics: Gauges,
  { spec, status }: Pick<MoEDeployment, "spec" | "status">,
  labels: { readonly namespace: string; readonly deployment: string },
): void {
  const { autoscale } = spec.elasticity;
  const { metrics: measured = [] } = status.autoscale ?? {};
  const asked = measured.length === 0 ? undefined : Math.max(...measured.map(({ ranks }) => ranks));
  const show = (name: "enodia_autoscale_value" | "enodia_autoscale_target", metric: string, value: number | undefined): void =>
    value === undefined ? metrics.unset(name, { ...labels, metric }) : metrics.set(name, value, { ...labels, metric });
  for (const [state, ranks] of [
    ["asked", asked],
    ["least", autoscale?.min],
    ["most", autoscale?.max],
  ] as const) {
    if (ranks === undefined) metrics.unset("enodia_autoscale_ranks", { ...labels, state });
    else metrics.set("enodia_autoscale_ranks", ranks, { ...labels, state });
  }
  for (const name of autoscaleMetrics) {
    const found = measured.find((one) => one.name === name);
    show("enodia_autoscale_value", name, found?.value);
    show("enodia_autoscale_target", name, found?.target);
  }
  const scaling = status.conditions?.find(({ type }) => type === "ScalingActive");
  for (const reason of autoscaleFaults) {
    const frozen = scaling?.status === "False" && scaling.reason === reason ? 1 : 0;
    if (scaling) metrics.set("enodia_autoscale_frozen", frozen, { ...labels, reason });
    else metrics.unset("enodia_autoscale_frozen", { ...labels, reason });
  }
}

interface Labels {
  readonly namespace: string;
  readonly deployment: string;
}

const seconds = (time: string): number => Date.parse(time) / 1000;

function recordOperation(metrics: Pick<Metrics<"operator">, "set">, labels: Labels, status: MoEDeployment["status"]): void {
  const { operation, history = [], rollout } = status;
  for (const type of operationTypes) {
    metrics.set("enodia_operation_active", operation?.type === type ? 1 : 0, { ...labels, type });
    const last = history.find((one) => one.type === type);
    if (last) metrics.set("enodia_operation_last_duration_seconds", seconds(last.endTime) - seconds(last.startTime), { ...labels, type });
  }
  if (operation) metrics.set("enodia_operation_deadline_timestamp_seconds", seconds(operation.deadline), labels);
  metrics.set("enodia_rollout_rolled_back", rollout?.rolledBack ? 1 : 0, labels);
}

/** Counts each rollback once, however often its status arrives. */
export class Rollbacks {
  readonly #last = new Map<string, string>();

  /** The reason of a new rollback; an object's first status is only the baseline. */
  see({ metadata: { uid = "" }, status }: KubeObject): RollbackReason | undefined {
    const { rolledBack } = (status as { readonly rollout?: { readonly rolledBack?: RolledBack } } | undefined)?.rollout ?? {};
    const before = this.#last.get(uid);
    const id = rolledBack?.id ?? before ?? "";
    this.#last.set(uid, id);
    return before === undefined || before === id ? undefined : rollbackReasons.find((one) => one === rolledBack?.reason);
  }

  forget({ metadata: { uid = "" } }: KubeObject): void {
    this.#last.delete(uid);
  }
}
