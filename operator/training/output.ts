// The writers of a job's output folder: it is one job's, the one that was made first, and a pod of another one has to be gone before a new
// pod may write there. Pure.
import { annotations, labels } from "../../crds/common.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import type { KubeObject } from "../kube/kube.ts";
import { isOver } from "./core/decide.ts";
import { podView } from "./core/pod-view.ts";

const outputOf = ({ spec }: KubeObject): unknown => (spec as { readonly output?: { readonly uri?: unknown } } | undefined)?.output?.uri;

/** The age of an object as text that sorts; those of the same second by their uid. */
const ageOf = ({ metadata }: KubeObject): string => `${metadata.creationTimestamp ?? ""} ${metadata.uid ?? ""}`;

/** A job that writes the same folder, was made before this one and is not over. */
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

/** Pods of other objects that may still write the folder: of a job with this name that was deleted, or of one with the same output. */
export function otherWriters({ metadata, spec }: MoETrainingJob, pods: readonly KubeObject[]): readonly string[] {
  const writes = (pod: KubeObject): boolean =>
    pod.metadata.labels?.[labels.trainingJob] === metadata.name || pod.metadata.annotations?.[annotations.output] === spec.output.uri;
  return pods.filter((pod) => writes(pod) && podView(pod).over === undefined).map((pod) => pod.metadata.name);
}
