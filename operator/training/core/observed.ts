// A training job as observed: spec, status, pods and their reports, and problems. Types only.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { PodReport } from "../../../crds/training-world.ts";
import type { ClaimPlace } from "./claim-place.ts";
import type { PodView } from "./pod-view.ts";

export interface Problem {
  readonly reason: string;
  readonly message: string;
}

export interface Observed {
  readonly job: MoETrainingJob;
  /** As last written. */
  readonly status: MoETrainingJobStatus;
  /** Including those being deleted. */
  readonly pods: readonly PodView[];
  /** Pods that check the job; `pods` has none of them. */
  readonly checks: readonly PodView[];
  /** An older, unfinished job with the same output folder. */
  readonly rival: string | undefined;
  /** Pods of other objects that may still write the folder. */
  readonly otherWriters: readonly string[];
  /** Reports of running pods by uid. */
  readonly reports: ReadonlyMap<string, PodReport>;
  /** Jobs that begin now get this image. */
  readonly image: string;
  /** The hash of a pod created now. */
  readonly templateHash: (image: string) => string;
  /** The hash of the fields that the check depends on. */
  readonly checkHash: (image: string) => string;
  readonly templateProblems: readonly Problem[];
  /** Why the PodGroup cannot be created, as of this pass. */
  readonly groupProblems: readonly Problem[];
  /** Why the API server refused a pod in this pass. */
  readonly podRefused: string | undefined;
  readonly place: ClaimPlace;
  readonly now: Date;
}

/** The image of the job's start, unless its owner names one. */
export function imageOf({ job, status, image }: Pick<Observed, "job" | "status" | "image">): string {
  return job.spec.image ?? status.image ?? image;
}
