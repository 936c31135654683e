// Figures of the deployment plane: gauges, read from the statuses in the cache at each scrape, and rolls that were taken back, counted as
// statuses come.
import { conditionStatuses } from "../../crds/conditions.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { operationTypes } from "../../crds/operation.ts";
import { type RollbackReason, type RolledBack, rollbackReasons } from "../../crds/rollout.ts";
import type { Metrics } from "../../runtime/observe/metrics.ts";
import type { KubeObject } from "../kube/kube.ts";

export function recordStatus(metrics: Pick<Metrics<"operator">, "set">, objects: readonly KubeObject[]): void {
  for (const object of objects) {
    try {
      record(metrics, object);
    } catch {
      // an object that cannot be read has SpecAccepted=False and no gauges
    }
  }
}

function record(metrics: Pick<Metrics<"operator">, "set">, object: KubeObject): void {
  const { metadata, spec, status } = parseMoEDeployment(object);
  const labels = { namespace: metadata.namespace, deployment: metadata.name };
  const replicas = status.replicas ?? 0;
  const active = status.expertParallel?.activeRanks ?? 0;
  const lost = status.expertParallel?.lostRanks?.length ?? 0;
  const desired = status.expertParallel?.desiredRanks ?? spec.replicas;
  metrics.set("enodia_deployment_replicas", spec.suspend ? 0 : spec.replicas, { ...labels, state: "desired" });
  metrics.set("enodia_deployment_replicas", replicas, { ...labels, state: "allocated" });
  metrics.set("enodia_deployment_replicas", status.readyReplicas ?? 0, { ...labels, state: "ready" });
  // Ranks that do not serve for another reason (a start, a crash loop, memory) are on their way, not lost.
  const repairing = status.conditions?.some((one) => one.type === "Degraded" && one.status === "True" && one.reason === "RanksLost");
  metrics.set("enodia_deployment_ranks", active, { ...labels, state: "active" });
  metrics.set("enodia_deployment_ranks", repairing ? lost : 0, { ...labels, state: "lost" });
  metrics.set("enodia_deployment_ranks", repairing ? 0 : Math.max(0, Math.min(desired, replicas) - active), {
    ...labels,
    state: "joining",
  });
  metrics.set("enodia_deployment_ranks", Math.max(0, replicas - desired), { ...labels, state: "draining" });
  recordOperation(metrics, labels, status);
  for (const condition of status.conditions ?? []) {
    for (const value of conditionStatuses) {
      metrics.set("enodia_deployment_condition", condition.status === value ? 1 : 0, { ...labels, type: condition.type, status: value });
    }
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
    const last = history.find((one) => one.type === type); // the newest is first
    if (last) metrics.set("enodia_operation_last_duration_seconds", seconds(last.endTime) - seconds(last.startTime), { ...labels, type });
  }
  if (operation) metrics.set("enodia_operation_deadline_timestamp_seconds", seconds(operation.deadline), labels);
  metrics.set("enodia_rollout_rolled_back", rollout?.rolledBack ? 1 : 0, labels);
}

/** Rolls that are taken back while this replica looks on, each once however often its status comes. */
export class Rollbacks {
  readonly #last = new Map<string, string>();

  /** The reason of a roll that was taken back since the last look at this object; the first look has nothing to compare with. */
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
