// The pods that a training job is to have now. One whose experts spawn begins with few, since it has little to shard, and has what its spec
// says from the step on that they spawn after. It follows from spec and status alone, so that a changed spec is followed at once, and
// nothing is written into it. Pure.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";

/** Whether pods are still left out because the experts are to spawn. */
export function beforeSpawn({ spec: { spawn, replicas } }: MoETrainingJob, { step = 0 }: MoETrainingJobStatus): boolean {
  return spawn !== undefined && step < spawn.step && spawn.replicasBefore < replicas;
}

export function wantedReplicas(job: MoETrainingJob, status: MoETrainingJobStatus): number {
  const { replicas, spawn } = job.spec;
  return beforeSpawn(job, status) ? (spawn?.replicasBefore ?? replicas) : replicas;
}

/** Whether a world of so many has the ranks of before the spawn, and none had more: the others are on their way then, and not lost. */
export const stillOfBefore = ({ spec: { spawn } }: MoETrainingJob, { world }: MoETrainingJobStatus, ranks: number): boolean =>
  ranks === spawn?.replicasBefore && (world?.ranks.length ?? 0) <= ranks;
