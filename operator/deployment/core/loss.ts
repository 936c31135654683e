// Which pods are lost with their node. A silent node proves little, so that the rank's Control stream counts too. Pure.
import type { ObservedPod, PodFacts } from "./snapshot.ts";
import type { RebalanceView } from "./world.ts";

/** One silent node has failed; with two or more the network to them may have. */
const heldFromNodes = 2;

export function withLosses(pods: readonly ObservedPod[], view: RebalanceView | undefined, warmingUp: boolean): PodFacts[] {
  const held = massSilence(pods);
  return pods.map((pod): PodFacts => {
    if (!pod.silent) return { ...pod, lost: false };
    const member = view?.members.find((one) => one.podUid === pod.uid);
    const kept = member?.connected ? "its rank does" : held;
    // A new leader may not have heard of the rank yet.
    const untried = warmingUp && (member?.bootId ?? "") === "";
    if (kept === undefined && !untried) return { ...pod, lost: true };
    return { ...pod, lost: false, problem: pod.problem || `node ${pod.node} does not answer${kept === undefined ? "" : `; ${kept}`}` };
  });
}

/** Why silence deletes nothing: when most used nodes are silent, something else has failed. */
function massSilence(pods: readonly ObservedPod[]): string | undefined {
  const nodes = new Set(pods.flatMap((pod) => (pod.terminal ? [] : (pod.node ?? []))));
  const silent = new Set(pods.flatMap((pod) => (pod.silent && !pod.terminal ? (pod.node ?? []) : [])));
  if (silent.size < heldFromNodes || silent.size * 2 <= nodes.size) return undefined;
  return `nor do ${silent.size} of the ${nodes.size} nodes in use: no pod is deleted for that while they are more than half`;
}
