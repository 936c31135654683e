// The image of a job's pods. Pure.
import type { Observed } from "./observed.ts";

/** The image of the job's start, unless its owner names one. */
export function imageOf({ job, status, image }: Pick<Observed, "job" | "status" | "image">): string {
  return job.spec.image ?? status.image ?? image;
}
