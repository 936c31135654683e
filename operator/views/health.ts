// The health of a deployment or job: one mark and one sentence from its conditions. Pure.
import type { Condition } from "../../crds/conditions.ts";

/** In the order of lists. */
export const marks = ["wrong", "busy", "unknown", "idle", "well"] as const;
type Mark = (typeof marks)[number];

export interface Health {
  readonly mark: Mark;
  readonly reason: string;
  readonly message: string;
}

type Conditions = readonly Condition[] | undefined;

const found = (conditions: Conditions, type: string, status: Condition["status"]): Condition | undefined =>
  conditions?.find((one) => one.type === type && one.status === status);

const health = (mark: Mark, { reason, message }: Pick<Condition, "reason" | "message">): Health => ({ mark, reason, message });

/** The object cannot be read. */
export const unreadable = (reason: string, message: string): Health => ({ mark: "wrong", reason, message });

const notObserved = health("unknown", { reason: "NotObserved", message: "the operator has not looked at it yet" });

/** Reasons of Progressing=False that a person requested, or that end it. */
const restful: readonly string[] = ["Converged", "RolloutPaused", "RollingOut", "RolloutPartitioned", "RolloutOnDelete"];
/** Reasons of a deployment whose owner wants no rank. */
export const idleReasons: readonly string[] = ["Suspended", "ScaledToZero"];

export function deploymentHealth(conditions: Conditions, operation: string | undefined): Health {
  const ready = found(conditions, "Ready", "True") ?? found(conditions, "Ready", "False");
  const progressing = found(conditions, "Progressing", "True");
  const stuck = found(conditions, "Progressing", "False");
  const refused = found(conditions, "SpecAccepted", "False");
  const wrong = refused ?? (stuck && !restful.includes(stuck.reason) ? stuck : undefined) ?? found(conditions, "Degraded", "True");
  if (wrong) return health("wrong", wrong);
  if (ready && idleReasons.includes(ready.reason) && !progressing) return health("idle", ready);
  if (progressing) return health("busy", progressing);
  if (operation !== undefined) return health("busy", { reason: operation, message: ready?.message ?? "" });
  if (!ready) return notObserved;
  return health(ready.status === "True" ? "well" : "wrong", ready);
}

export function jobHealth(conditions: Conditions): Health {
  const failed = found(conditions, "Failed", "True") ?? found(conditions, "SpecAccepted", "False");
  if (failed) return health("wrong", failed);
  const complete = found(conditions, "Complete", "True");
  if (complete) return health("well", complete);
  const running = found(conditions, "Running", "True");
  if (running) return health("busy", running);
  const waiting = found(conditions, "Running", "False");
  return waiting ? health(waiting.reason === "Suspended" ? "idle" : "unknown", waiting) : notObserved;
}
