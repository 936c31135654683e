// The subject of logs and bundle: a MoEDeployment by name, or a MoETrainingJob as job/NAME. Pure.
import { AppError, labels } from "../../crds/common.ts";
import { downloaderComponent } from "../../crds/download.ts";
import { weightServerComponent } from "../../crds/weight-server.ts";
import type { NamedKind } from "./command.ts";

interface SubjectKind {
  /** A key of the table in operator/kube/kube.ts. */
  readonly resource: NamedKind;
  readonly kind: "MoEDeployment" | "MoETrainingJob";
  /** The label with its name on its pods. */
  readonly label: string;
  /** Components with logs, in order of output. */
  readonly components: readonly string[];
  /** The controller in the operator's log lines. */
  readonly controller: string;
  /** The command that shows its state. */
  readonly status: string;
}

export interface Subject extends SubjectKind {
  readonly name: string;
}

export const subjects = {
  deployment: {
    resource: "moeDeployments",
    kind: "MoEDeployment",
    label: labels.deployment,
    components: ["gateway", "worker", weightServerComponent, downloaderComponent, "operator"],
    controller: "moedeployment",
    status: "enodia status",
  },
  job: {
    resource: "moeTrainingJobs",
    kind: "MoETrainingJob",
    label: labels.trainingJob,
    components: ["training", "operator"],
    controller: "moetrainingjob",
    status: "enodia train status",
  },
} as const satisfies Readonly<Record<string, SubjectKind>>;

export function subjectOf(word: string): Subject {
  const [, isJob, name = ""] = /^(job\/)?([^/]+)$/.exec(word) ?? [];
  if (name === "")
    throw new AppError("NAME of a MoEDeployment is needed, or job/NAME of a MoETrainingJob; see: enodia status", { code: "BadOption" });
  return { ...(isJob === undefined ? subjects.deployment : subjects.job), name };
}
