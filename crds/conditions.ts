// Conditions of both kinds; the transition time moves only with the status.
import { z } from "zod";

export const conditionStatuses = ["True", "False", "Unknown"] as const;
export type ConditionStatus = (typeof conditionStatuses)[number];

const conditionSchema = z.object({
  type: z.string().max(64).meta({ description: "What is judged." }),
  status: z.enum(conditionStatuses).meta({ description: "The verdict." }),
  reason: z.string().max(128).meta({ description: "Why, in one word." }),
  message: z.string().max(2048).meta({ description: "Why, for people, with the remedy where there is one." }),
  lastTransitionTime: z.iso.datetime().meta({ description: "When the status last changed." }),
  observedGeneration: z.int().min(0).optional().meta({ description: "Generation of the spec that was judged." }),
});
export type Condition = z.infer<typeof conditionSchema>;

/** A list keyed by type. */
export const conditionsSchema = z
  .array(conditionSchema)
  .max(16)
  .meta({
    description: "Latest observations, one per type.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
  });

export type ConditionState = Omit<Condition, "lastTransitionTime">;

/** Keeps the old transition time if the status did not change. */
export function withTransition(old: readonly Condition[], next: ConditionState, now: Date): Condition {
  const before = old.find((condition) => condition.type === next.type);
  const lastTransitionTime = before && before.status === next.status ? before.lastTransitionTime : rfc3339(now);
  return { ...next, message: next.message.slice(0, 2048), lastTransitionTime };
}

/** Seconds precision, like metav1.Time. */
export function rfc3339(time: Date): string {
  return time.toISOString().replace(/\.\d+Z$/, "Z");
}
