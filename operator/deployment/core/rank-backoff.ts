// The pause before a rank whose pods keep ending is created again: a scheduler would choose a node that refuses the pod again at once. It
// doubles from the second failure on, and the status stores it for a new leader. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import type { PodFailure } from "../../../crds/moe-deployment-status.ts";
import type { Snapshot } from "./snapshot.ts";

const firstMs = 1_000;
const longestMs = 300_000;
/** A pod that lasts this long resets its rank. */
const forgivenMs = 600_000;
/** Ranks with a stored failure, at most. */
const rememberedMax = 1024;
const doublingsMax = 20;

/** The failures that count, new ones included. A changed spec resets them. */
export function podFailures({ deployment, now, pods }: Snapshot): PodFailure[] {
  const { status, metadata } = deployment;
  const before = status.observedGeneration === metadata.generation ? (status.expertParallel?.podFailures ?? []) : [];
  const recent = before.filter((one) => now.getTime() < Date.parse(one.retryTime) + forgivenMs);
  const byRank = new Map(recent.map((one) => [one.rank, one]));
  for (const pod of pods) {
    const last = byRank.get(pod.rank);
    // The copy may lack its deletion: a pod counts once.
    if (!pod.terminal || pod.terminating || last?.pod === pod.name) continue;
    const count = (last?.count ?? 0) + 1;
    const reason = (pod.problem.split(":")[0] || "Ended").slice(0, 64);
    byRank.set(pod.rank, { rank: pod.rank, count, reason, pod: pod.name, retryTime: retryTime(now, count) });
  }
  return [...byRank.values()].sort((a, b) => a.rank - b.rank).slice(0, rememberedMax);
}

/** 0 when the rank may be created now. */
export function waitMs(failures: readonly PodFailure[], rank: number, now: Date): number {
  const failure = failures.find((one) => one.rank === rank);
  const left = failure ? Date.parse(failure.retryTime) - now.getTime() : 0;
  // More than the pause itself (in whole seconds) comes from a clock that was ahead.
  return failure && left <= pauseMs(failure.count) + 1_000 ? Math.max(0, left) : 0;
}

function retryTime(now: Date, count: number): string {
  if (count <= 1) return rfc3339(now);
  return rfc3339(new Date(Math.ceil((now.getTime() + pauseMs(count)) / 1000) * 1000));
}

const pauseMs = (count: number): number => (count <= 1 ? 0 : Math.min(longestMs, firstMs * 2 ** Math.min(count - 2, doublingsMax)));
