// The pods of a job whose experts spawn: few before the spawn step, since there is little to shard, and the spec's number after it. It
// follows from spec and status alone. Pure.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { GangName } from "../../../crds/names.ts";
import { imageOf, type Observed } from "./observed.ts";

/** Pods are left out until the experts spawn. */
export function beforeSpawn({ spec: { spawn, replicas } }: MoETrainingJob, { step = 0 }: MoETrainingJobStatus): boolean {
  return spawn !== undefined && step < spawn.step && spawn.replicasBefore < replicas;
}

export function wantedReplicas(job: MoETrainingJob, status: MoETrainingJobStatus): number {
  const { replicas, spawn } = job.spec;
  return beforeSpawn(job, status) ? (spawn?.replicasBefore ?? replicas) : replicas;
}

/** A world with the ranks of before the spawn: the others are on their way, not lost. */
export const stillOfBefore = ({ spec: { spawn } }: MoETrainingJob, { world }: MoETrainingJobStatus, ranks: number): boolean =>
  ranks === spawn?.replicasBefore && (world?.ranks.length ?? 0) <= ranks;

/** Running ranks from before the group count as present. */
export function membersOf(observed: Observed, scheduler: GangName): number {
  const { job, status, pods, templateHash } = observed;
  const wanted = wantedReplicas(job, status);
  const hash = templateHash(imageOf(observed));
  const stays = pods.filter((pod) => pod.over === undefined && !pod.deleting && pod.hash === hash && pod.rank >= 0 && pod.rank < wanted);
  const outside = stays.filter(({ node, gang }) => node !== "" && gang !== scheduler).length;
  return Math.max(1, Math.min(wanted, leastOf(job, status)) - outside);
}

/** The least that elasticity and memory allow; all while the memory is unknown. */
function leastOf({ spec }: MoETrainingJob, { check }: MoETrainingJobStatus): number {
  const perWorld = check?.fits?.sizes?.leastRanks ?? Number.POSITIVE_INFINITY;
  return Math.max(spec.elasticity.minReplicas, perWorld * (1 + spec.local.data.length));
}
