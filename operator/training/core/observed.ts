// A training job as decisions see it: its spec and status, its pods and what they say, and what of it cannot be. Types only.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { PodWords } from "../../../crds/training-world.ts";
import type { PodView } from "./pod-view.ts";

export interface Problem {
  readonly reason: string;
  readonly message: string;
}

export interface Observed {
  readonly job: MoETrainingJob;
  /** The status as it was written last. */
  readonly status: MoETrainingJobStatus;
  /** Its pods, those that are being deleted too. */
  readonly pods: readonly PodView[];
  /** Its pods that check it, or did; none of them is among the others. */
  readonly checks: readonly PodView[];
  /** A job that writes the same folder, was made before this one and is not over. */
  readonly rival: string | undefined;
  /** Pods of other objects that may still write the folder. */
  readonly otherWriters: readonly string[];
  /** What running pods say, by uid. */
  readonly words: ReadonlyMap<string, PodWords>;
  /** Image of jobs that begin now. */
  readonly image: string;
  /** The hash that a pod made now would have. */
  readonly templateHash: (image: string) => string;
  /** The hash of what in the spec the check of a job depends on. */
  readonly checkHash: (image: string) => string;
  /** What of the pod template cannot be. */
  readonly templateProblems: readonly Problem[];
  /** What keeps the group of its pods from being made, as seen just now. */
  readonly groupProblems: readonly Problem[];
  /** What the API server said where it refused a pod just now. */
  readonly podRefused: string | undefined;
  readonly now: Date;
}
