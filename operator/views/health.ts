// The verdict on a deployment or a training job: one mark and one sentence from its conditions: what a person should look at first. Pure.
import type { Condition } from "../../crds/conditions.ts";

/** From what needs a person to what needs nobody, the order in which they are listed. */
export const marks = ["wrong", "busy", "unknown", "idle", "well"] as const;
type Mark = (typeof marks)[number];

export interface Verdict {
  readonly mark: Mark;
  /** The condition's reason, in one word. */
  readonly reason: string;
  readonly message: string;
}

type Conditions = readonly Condition[] | undefined;

const found = (conditions: Conditions, type: string, status: Condition["status"]): Condition | undefined =>
  conditions?.find((one) => one.type === type && one.status === status);

const verdict = (mark: Mark, { reason, message }: Pick<Condition, "reason" | "message">): Verdict => ({ mark, reason, message });

const notSeen = verdict("unknown", { reason: "NotSeen", message: "the operator has not looked at it yet" });

/** Reasons of Progressing=False that somebody has asked for, or that are the end of it. */
const restful: readonly string[] = ["Converged", "RolloutPaused", "RollingOut", "RolloutPartitioned", "RolloutOnDelete"];
const idle: readonly string[] = ["Suspended", "ScaledToZero"];

export function deploymentVerdict(conditions: Conditions, operation: string | undefined): Verdict {
  const ready = found(conditions, "Ready", "True") ?? found(conditions, "Ready", "False");
  const progressing = found(conditions, "Progressing", "True");
  const stuck = found(conditions, "Progressing", "False");
  const refused = found(conditions, "SpecAccepted", "False");
  const wrong = refused ?? (stuck && !restful.includes(stuck.reason) ? stuck : undefined) ?? found(conditions, "Degraded", "True");
  if (wrong) return verdict("wrong", wrong);
  if (ready && idle.includes(ready.reason) && !progressing) return verdict("idle", ready);
  if (progressing) return verdict("busy", progressing);
  if (operation !== undefined) return verdict("busy", { reason: operation, message: ready?.message ?? "" });
  if (!ready) return notSeen;
  return verdict(ready.status === "True" ? "well" : "wrong", ready);
}

export function jobVerdict(conditions: Conditions): Verdict {
  const failed = found(conditions, "Failed", "True") ?? found(conditions, "SpecAccepted", "False");
  if (failed) return verdict("wrong", failed);
  const complete = found(conditions, "Complete", "True");
  if (complete) return verdict("well", complete);
  const running = found(conditions, "Running", "True");
  if (running) return verdict("busy", running);
  const waiting = found(conditions, "Running", "False");
  return waiting ? verdict(waiting.reason === "Suspended" ? "idle" : "unknown", waiting) : notSeen;
}
