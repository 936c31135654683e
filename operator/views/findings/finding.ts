// The types that rules share.
import type { ExpertPlacement } from "../../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { PodFacts } from "../pods.ts";

/** critical: no answers, or a job is over. warning: something is not done or will fail. */
export const severities = ["critical", "warning", "info"] as const;
export type Severity = (typeof severities)[number];

export type SubjectKind = "moed" | "moet";

export interface Subject {
  readonly kind: SubjectKind;
  readonly namespace: string;
  readonly name: string;
}

export interface Finding extends Subject {
  readonly severity: Severity;
  /** A stable identifier for programs. */
  readonly code: string;
  /** DECISIONS.md 3. */
  readonly role: "cause" | "effect" | "aside";
  readonly what: string;
  readonly why: string;
  /** Effects of the same subject that this cause explains. */
  readonly effect?: string;
  /** The first command to run. */
  readonly remedy: string;
}

export interface WarningEvent {
  readonly namespace: string;
  readonly kind: string;
  readonly name: string;
  readonly reason: string;
  readonly message: string;
  readonly count: number;
  readonly lastAt: Date;
}

export interface Unread {
  readonly what: string;
  readonly why: string;
}

export interface SeenDeployment {
  readonly deployment: MoEDeployment;
  readonly placement: { readonly spec: Pick<ExpertPlacement["spec"], "epoch">; readonly status: ExpertPlacement["status"] } | undefined;
  /** The newest change outside the status. */
  readonly changedAt: Date | undefined;
}

export interface Observed {
  readonly now: Date;
  readonly deployments: readonly SeenDeployment[];
  readonly jobs: readonly MoETrainingJob[];
  readonly pods: readonly PodFacts[];
  readonly events: readonly WarningEvent[];
  readonly unread: readonly Unread[];
}

export type Rule = (observed: Observed) => readonly Finding[];
