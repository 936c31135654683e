// The image of a job's pods. Pure.
import type { Observed } from "./observed.ts";

/** The image that the job began with, unless its owner names one. */
export function imageOf({ job, status, image }: Pick<Observed, "job" | "status" | "image">): string {
  return job.spec.image ?? status.image ?? image;
}
