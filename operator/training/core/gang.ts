// The ranks of a training job that start together or not at all, where a scheduler is asked for that: the least that can train. Not all
// that are wanted: a job that grows, or that replaces a lost rank, takes room as it comes, and trains meanwhile. Pure.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { GangName } from "../../../crds/names.ts";
import { imageOf } from "./image.ts";
import type { Observed } from "./observed.ts";
import { wantedReplicas } from "./spawn.ts";

/** Ranks that run outside of the group, from before there was one, are there already, and its scheduler does not count them. */
export function membersOf(observed: Observed, scheduler: GangName): number {
  const { job, status, pods, templateHash } = observed;
  const wanted = wantedReplicas(job, status);
  const hash = templateHash(imageOf(observed));
  const stays = pods.filter((pod) => pod.over === undefined && !pod.deleting && pod.hash === hash && pod.rank >= 0 && pod.rank < wanted);
  const outside = stays.filter(({ node, gang }) => node !== "" && gang !== scheduler).length;
  return Math.max(1, Math.min(wanted, leastOf(job, status)) - outside);
}

/** As many as elasticity wants, and as have the memory; all while the memory that they need is not known. */
function leastOf({ spec }: MoETrainingJob, { check }: MoETrainingJobStatus): number {
  const perWorld = check?.fits?.sizes?.leastRanks ?? Number.POSITIVE_INFINITY;
  return Math.max(spec.elasticity.minReplicas, perWorld * (1 + spec.local.data.length));
}
