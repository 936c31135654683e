// The ranks of a training job that a gang scheduler starts together: the least that can train. Growth and replacements need no gang. Pure.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { GangName } from "../../../crds/names.ts";
import { imageOf } from "./image.ts";
import type { Observed } from "./observed.ts";
import { wantedReplicas } from "./spawn.ts";

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
