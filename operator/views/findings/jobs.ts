// Findings from the conditions of training jobs: failed, refused or waiting ones.
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { Finding, Observed } from "./finding.ts";

/** Reasons of a job that starts, was paused or has ended. */
const onItsWay = ["Starting", "Suspended", "SpecChanged", "Replacing", "Stopped", "Complete", "Failed"];

export function jobFindings({ jobs }: Observed): Finding[] {
  return jobs.flatMap((job) => ofJob(job));
}

function ofJob({ metadata, status }: MoETrainingJob): Finding[] {
  const { namespace, name } = metadata;
  const condition = (type: string, is: string) => status.conditions?.find((one) => one.type === type && one.status === is);
  const finding = (of: Pick<Finding, "severity" | "role" | "what" | "remedy">, reason: string, message: string): Finding => ({
    kind: "moet",
    namespace,
    name,
    code: reason,
    why: `${reason}: ${message}`,
    ...of,
  });
  if (condition("Complete", "True")) return [];
  const failed = condition("Failed", "True");
  if (failed) {
    const remedy = `enodia train status ${name} -n ${namespace}`;
    return [finding({ severity: "critical", role: "cause", what: "has failed for good", remedy }, failed.reason, failed.message)];
  }
  const refused = condition("SpecAccepted", "False");
  if (refused) {
    const remedy = `kubectl -n ${namespace} edit moet ${name}`;
    return [finding({ severity: "warning", role: "cause", what: "its spec is refused", remedy }, refused.reason, refused.message)];
  }
  const waits = condition("Running", "False");
  if (!waits || onItsWay.includes(waits.reason)) return [];
  const remedy = `enodia train status ${name} -n ${namespace}`;
  return [finding({ severity: "warning", role: "effect", what: "does not train", remedy }, waits.reason, waits.message)];
}
