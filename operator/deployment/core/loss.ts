// Which pods are lost with their node. A silent node proves little by itself, so the rank's own Control stream has a say. Pure.
import type { ObservedPod, PodFacts } from "./snapshot.ts";
import type { RebalanceView } from "./world.ts";

/** One silent node is a failure of that node; from two on it may be the way to them that failed. */
const heldFromNodes = 2;

export function withLosses(pods: readonly ObservedPod[], view: RebalanceView | undefined, warmingUp: boolean): PodFacts[] {
  const held = massSilence(pods);
  return pods.map((pod): PodFacts => {
    if (!pod.silent) return { ...pod, lost: false };
    const member = view?.members.find((one) => one.podUid === pod.uid);
    const kept = member?.connected ? "its rank does" : held;
    // A new leader has not had the time to hear of the rank.
    const untried = warmingUp && (member?.bootId ?? "") === "";
    if (kept === undefined && !untried) return { ...pod, lost: true };
    return { ...pod, lost: false, problem: pod.problem || `node ${pod.node} does not answer${kept === undefined ? "" : `; ${kept}`}` };
  });
}

/** The reason why nothing is deleted for silence: most of the nodes in use being silent is an outage of something else. */
function massSilence(pods: readonly ObservedPod[]): string | undefined {
  const nodes = new Set(pods.flatMap((pod) => (pod.terminal ? [] : (pod.node ?? []))));
  const silent = new Set(pods.flatMap((pod) => (pod.silent && !pod.terminal ? (pod.node ?? []) : [])));
  if (silent.size < heldFromNodes || silent.size * 2 <= nodes.size) return undefined;
  return `nor do ${silent.size} of the ${nodes.size} nodes in use: no pod is deleted for that while they are more than half`;
}
