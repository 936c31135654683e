// The pause before a rank whose pods keep ending is made again: a node that refuses a pod (UnexpectedAdmissionError, OutOfcpu,
// Evicted) is chosen again at once, so that delete and create alone would go on without end. The first failure costs no time, since
// most come alone; then the pause doubles. It is kept in the status, by which a new leader goes on with it. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import type { PodFailure } from "../../../crds/moe-deployment-status.ts";
import type { Snapshot } from "./snapshot.ts";

/** The pause after the second failure in a row. */
const firstMs = 1_000;
const longestMs = 300_000;
/** A rank whose new pod lasts this long starts anew. */
const forgivenMs = 600_000;
/** Ranks that are kept, as many as a deployment may have. */
const rememberedMax = 1024;
/** Doublings after which the pause has long been the longest. */
const doublingsMax = 20;

/** The failures that count now, those that this look finds included. A changed spec may be the cure, so it starts anew, too. */
export function podFailures({ deployment, now, pods }: Snapshot): PodFailure[] {
  const { status, metadata } = deployment;
  const before = status.observedGeneration === metadata.generation ? (status.expertParallel?.podFailures ?? []) : [];
  const recent = before.filter((one) => now.getTime() < Date.parse(one.retryTime) + forgivenMs);
  const byRank = new Map(recent.map((one) => [one.rank, one]));
  for (const pod of pods) {
    const last = byRank.get(pod.rank);
    // Its delete may not have arrived in our copy yet: a pod counts once.
    if (!pod.terminal || pod.terminating || last?.pod === pod.name) continue;
    const count = (last?.count ?? 0) + 1;
    const reason = (pod.problem.split(":")[0] || "Ended").slice(0, 64);
    byRank.set(pod.rank, { rank: pod.rank, count, reason, pod: pod.name, retryTime: retryTime(now, count) });
  }
  return [...byRank.values()].sort((a, b) => a.rank - b.rank).slice(0, rememberedMax);
}

/** Milliseconds until the rank may be made again; 0 when it may be now. */
export function waitMs(failures: readonly PodFailure[], rank: number, now: Date): number {
  const failure = failures.find((one) => one.rank === rank);
  const left = failure ? Date.parse(failure.retryTime) - now.getTime() : 0;
  // More than the pause itself, which is in whole seconds: the clock was ahead when it was written.
  return failure && left <= pauseMs(failure.count) + 1_000 ? Math.max(0, left) : 0;
}

function retryTime(now: Date, count: number): string {
  if (count <= 1) return rfc3339(now);
  return rfc3339(new Date(Math.ceil((now.getTime() + pauseMs(count)) / 1000) * 1000));
}

const pauseMs = (count: number): number => (count <= 1 ? 0 : Math.min(longestMs, firstMs * 2 ** Math.min(count - 2, doublingsMax)));
