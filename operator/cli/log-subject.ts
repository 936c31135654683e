// What logs and bundle are about: a MoEDeployment by its name, or a MoETrainingJob as job/NAME. Pure.
import { AppError, labels } from "../../crds/common.ts";
import { downloaderComponent } from "../../crds/download.ts";
import { weightServerComponent } from "../../crds/weight-server.ts";
import type { NamedKind } from "./command.ts";

interface SubjectKind {
  /** In the table of operator/kube/kube.ts. */
  readonly resource: NamedKind;
  readonly kind: "MoEDeployment" | "MoETrainingJob";
  /** Label that its pods have its name in. */
  readonly label: string;
  /** Parts whose pods have logs, in the order in which they are told. */
  readonly components: readonly string[];
  /** The operator's controller, by the field of its log lines. */
  readonly controller: string;
  /** The command that tells how it stands. */
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

/** Parses NAME or job/NAME. */
export function subjectOf(word: string): Subject {
  const [, isJob, name = ""] = /^(job\/)?([^/]+)$/.exec(word) ?? [];
  if (name === "")
    throw new AppError("NAME of a MoEDeployment is needed, or job/NAME of a MoETrainingJob; see: enodia status", { code: "BadOption" });
  return { ...(isJob === undefined ? subjects.deployment : subjects.job), name };
}
