// The pods of a deployment before and after a fault: which were replaced or restarted that nothing explains. Pure.

export interface PodState {
  readonly name: string;
  readonly uid: string;
  readonly node: string;
  readonly ip: string;
  readonly component: string;
  readonly rank: number;
  readonly restarts: number;
}

/** True of a pod that the fault itself, or the cluster for it, may restart or replace. */
export type MayGo = (pod: PodState) => boolean;

export const nobody: MayGo = () => false;
export const everybody: MayGo = () => true;

/** What happened to pods that were to stay as they are, in words. A pod that came meanwhile is no loss. */
export function unexplained(before: readonly PodState[], after: readonly PodState[], mayGo: MayGo, evicted: ReadonlySet<string>): string[] {
  return before.flatMap((pod) => {
    if (mayGo(pod) || evicted.has(pod.uid)) return [];
    const now = after.find(({ uid }) => uid === pod.uid);
    if (now === undefined) return [`pod ${pod.name} on ${pod.node} was replaced`];
    return now.restarts > pod.restarts ? [`pod ${pod.name} on ${pod.node} restarted ${now.restarts - pod.restarts} times`] : [];
  });
}
