// What happens to pods of a deleted namesake (`kubectl delete --cascade=orphan`). DECISIONS.md 7. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { Orphans, PodFacts, Snapshot } from "./snapshot.ts";

/** Pods named in a message. */
const namedMax = 16;

const serve = ({ workers, gateways }: Orphans): boolean => gateways > 0 && workers.some((pod) => pod.ready && !pod.terminating);

/** The old ranks keep the gateways until the new ones serve. */
export function gatewaysWait(orphans: Orphans, pods: readonly PodFacts[], { suspend, replicas }: MoEDeploymentSpec): boolean {
  const serving = pods.filter((pod) => pod.ready && !pod.terminating).length;
  return serve(orphans) && !suspend && serving < replicas;
}

/** What is left, with the command that ends the wait; empty when nothing is. */
export function orphansLeft({ orphans, deployment }: Pick<Snapshot, "orphans" | "deployment">): string {
  const { workers, gateways } = orphans;
  if (workers.length === 0) return "";
  const left = `${count(workers.length, "worker pod")} and ${count(gateways, "gateway pod")} of a deleted MoEDeployment of this name`;
  if (gateways === 0) return `${left} are being removed`;
  const names = workers.slice(0, namedMax).map(({ name }) => name);
  const command = `kubectl -n ${deployment.metadata.namespace} delete pods ${names.join(" ")}`;
  return `${left} serve until this one's gateways have taken over; to end that now: ${command}`;
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;
