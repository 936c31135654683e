// The view of one training job's page. Pure.
import type { Condition } from "../../crds/conditions.ts";
import type { MoETrainingJobStatus } from "../../crds/moe-training-job-status.ts";
import { ascending, type CurvePoint } from "../../crds/training-report.ts";
import { type JobState, jobState } from "../views/job.ts";
import type { Source } from "./state.ts";
import type { ViewRequest } from "./view-deployment.ts";

export interface JobView {
  readonly state: JobState;
  readonly figures: Pick<
    MoETrainingJobStatus,
    "loss" | "validationLoss" | "gradientNorm" | "imbalance" | "tokensPerSecond" | "eta" | "restarts" | "spread" | "result"
  >;
  readonly world: MoETrainingJobStatus["world"];
  readonly curve: readonly CurvePoint[];
  readonly ends: readonly (readonly [what: string, end: NonNullable<MoETrainingJobStatus["lastFailure"]>])[];
  readonly conditions: readonly Condition[];
}

/** Undefined without such a job; a text where it cannot be read. */
export function jobView(source: Source, { namespace, name }: ViewRequest): JobView | string | undefined {
  const read = source.jobs().find((one) => one.namespace === namespace && one.name === name);
  if (!read) return undefined;
  if (!read.parsed) return read.problem;
  const { status } = read.parsed;
  const { lastFailure, lastStop } = status;
  return {
    state: jobState(read.parsed),
    figures: status,
    world: status.world,
    curve: ascending((status.curve ?? []).map(({ step, loss }) => ({ step, loss: Number(loss) }))),
    ends: [lastFailure && (["last failure", lastFailure] as const), lastStop && (["last stop", lastStop] as const)].filter(
      (end) => end !== undefined,
    ),
    conditions: status.conditions ?? [],
  };
}
