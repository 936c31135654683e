// The pods of a job whose experts spawn: few before the spawn step, since there is little to shard, and the spec's number after it. It
// follows from spec and status alone. Pure.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";

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
