// The types that rules share (index.ts).
import type { ExpertPlacement } from "../../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { PodFacts } from "../pods.ts";

/** critical: no answers, or a job is over. warning: something stays undone or will fail. */
export const severities = ["critical", "warning", "info"] as const;
export type Severity = (typeof severities)[number];

/** The short name of the kind, as kubectl takes it. */
export type SubjectKind = "moed" | "moet";

export interface Subject {
  readonly kind: SubjectKind;
  readonly namespace: string;
  readonly name: string;
}

export interface Finding extends Subject {
  readonly severity: Severity;
  /** In one word that stays the same, for programs. */
  readonly code: string;
  /** DECISIONS.md 3. */
  readonly role: "cause" | "effect" | "aside";
  readonly what: string;
  readonly why: string;
  /** Effects of the same subject that this cause explains. */
  readonly effect?: string;
  /** The command to begin with. */
  readonly remedy: string;
}

/** A warning that Kubernetes, or the operator, has written on an object. */
export interface WarningEvent {
  readonly namespace: string;
  readonly kind: string;
  readonly name: string;
  readonly reason: string;
  readonly message: string;
  readonly count: number;
  readonly lastAt: Date;
}

/** Something that could not be read. */
export interface Unread {
  readonly what: string;
  readonly why: string;
}

export interface SeenDeployment {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement | undefined;
  /** The time of the newest change that is none of the status. */
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
