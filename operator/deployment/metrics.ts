// Gauges of the deployment plane, read from the statuses in the cache at each scrape.
import { conditionStatuses } from "../../crds/conditions.ts";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
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
  for (const condition of status.conditions ?? []) {
    for (const value of conditionStatuses) {
      metrics.set("enodia_deployment_condition", condition.status === value ? 1 : 0, { ...labels, type: condition.type, status: value });
    }
  }
}
