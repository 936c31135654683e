// What happens to pods of a deleted namesake (`kubectl delete --cascade=orphan`). DECISIONS.md 7. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { Action } from "../features/pod-actions.ts";
import type { Orphans, PodFacts, Snapshot } from "./snapshot.ts";

/** Pods named in a message. */
const namedMax = 16;
/** The scheduler's messages about missing capacity, unlike those about pods that fit nowhere. */
const crowded = /\bInsufficient |\bToo many pods/;

const serve = ({ workers, gateways }: Orphans): boolean => gateways > 0 && workers.some((pod) => pod.ready && !pod.terminating);

/** The old ranks keep the gateways until the new ones serve. */
export function gatewaysWait(orphans: Orphans, pods: readonly PodFacts[], { suspend, replicas }: MoEDeploymentSpec): boolean {
  const serving = pods.filter((pod) => pod.ready && !pod.terminating).length;
  return serve(orphans) && !suspend && serving < replicas;
}

/** `createError`: why a rank cannot be created; empty when it can. */
export function orphanRemovals({ orphans, pods, gateway }: Snapshot, ranks: number, createError: string): Action[] {
  const there = orphans.workers.filter((pod) => !pod.terminating);
  if (orphans.gateways === 0) return there.map((pod) => removal(pod, "it serves nobody"));
  if (ranks === 0) return there.map((pod) => removal(pod, "no ranks are wanted"));
  const unplaced = [...pods.map(({ problem }) => problem), gateway.message].find((text) => crowded.test(text));
  const refused = [createError, gateway.createError].find((text) => text.includes("exceeded quota"));
  const noCapacity = unplaced ?? refused;
  const going = orphans.workers.some((pod) => pod.terminating);
  // An unready rank may recover.
  const ended = there.filter((pod) => pod.terminal || pod.lost);
  const next = there.filter((pod) => !ended.includes(pod)).sort((a, b) => Number(a.ready) - Number(b.ready) || b.rank - a.rank)[0];
  const crowding = noCapacity === undefined || going || ended.length > 0 || !next ? [] : [next];
  return [
    ...ended.map((pod) => removal(pod, "it has ended")),
    ...crowding.map((pod) => removal(pod, `there is no room for both: ${noCapacity}`)),
  ];
}

function removal(pod: PodFacts, why: string): Action {
  return { type: "delete", pod, force: false, reason: "OrphanRemoved", why: `a deleted MoEDeployment left it; ${why}` };
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
