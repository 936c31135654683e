// Who may write a job's output folder: the oldest job, and only once pods of other objects are gone. Pure.
import { annotations, labels } from "../../crds/common.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import type { KubeObject } from "../kube/kube.ts";
import { isOver } from "./core/decide.ts";
import { podView } from "./core/pod-view.ts";

const outputOf = ({ spec }: KubeObject): unknown => (spec as { readonly output?: { readonly uri?: unknown } } | undefined)?.output?.uri;

/** Sortable; the uid breaks ties of one second. */
const ageOf = ({ metadata }: KubeObject): string => `${metadata.creationTimestamp ?? ""} ${metadata.uid ?? ""}`;

/** An older, unfinished job with the same folder. */
export function rivalOf({ metadata, spec }: MoETrainingJob, jobs: readonly KubeObject[]): string | undefined {
  const own = jobs.find(({ metadata: { uid } }) => uid === metadata.uid);
  if (own === undefined) return undefined;
  const older = jobs.find(
    (job) =>
      outputOf(job) === spec.output.uri &&
      job.metadata.deletionTimestamp === undefined &&
      ageOf(job) < ageOf(own) &&
      !isOver(moeTrainingJobStatusSchema.safeParse(job.status ?? {}).data ?? {}),
  );
  return older?.metadata.name;
}

/** Pods of a deleted namesake, or of another job with the same output, that may still write. */
export function otherWriters({ metadata, spec }: MoETrainingJob, pods: readonly KubeObject[]): readonly string[] {
  const writes = (pod: KubeObject): boolean =>
    pod.metadata.labels?.[labels.trainingJob] === metadata.name || pod.metadata.annotations?.[annotations.output] === spec.output.uri;
  return pods.filter((pod) => writes(pod) && podView(pod).over === undefined).map((pod) => pod.metadata.name);
}
