// Decides by metadata.managedFields whether the autoscaler may set spec.replicas: an autoscaler, a GitOps tool and a person must not
// overwrite each other. Pure.
import { moeDeploymentSpecSchema } from "../../../crds/moe-deployment.ts";

export const autoscaler = "enodia-autoscaler";

/** The API server stores no time for writes through /scale. */
interface FieldManager {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
}

export interface Owned {
  readonly managers: readonly FieldManager[];
  /** When the autoscaler last set the number; undefined when it never did. */
  readonly lastSet: string | undefined;
  /** The annotation that hands the number back: writes after this time do not count. */
  readonly resume: string | undefined;
}

export type Ownership =
  | { readonly type: "ours" }
  /** The number was never set, or an applier dropped it, so that it fell to its default. */
  | { readonly type: "nobody" }
  /** Somebody set it once, before the autoscaler. */
  | { readonly type: "free" }
  /** Somebody applies it, and will do so again. */
  | { readonly type: "applied"; readonly manager: string }
  /** Somebody has set it since. */
  | { readonly type: "taken"; readonly manager: string };

export function ownership({ managers, lastSet, resume }: Owned): Ownership {
  const others = managers.filter(({ manager }) => manager !== autoscaler);
  const applied = others.find(({ operation }) => operation === "Apply");
  if (applied) return { type: "applied", manager: applied.manager };
  if (managers.some(({ manager }) => manager === autoscaler)) return { type: "ours" };
  const other = others[0];
  if (!other) return { type: "nobody" };
  return lastSet === undefined || lastSet === resume ? { type: "free" } : { type: "taken", manager: other.manager };
}

const defaultReplicas = moeDeploymentSpecSchema.shape.replicas.parse(undefined);

/** An applier dropped replicas, and the API server set the default. */
export function hasFallen(owner: Ownership, replicas: number, present: number): boolean {
  return owner.type === "nobody" && replicas === defaultReplicas && replicas < present;
}
