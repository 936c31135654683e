// The question whether the autoscaler may set spec.replicas: metadata.managedFields says who else does. Of an autoscaler, a GitOps tool
// and a person with kubectl one alone can have the number, or it goes to and fro. Pure.

/** The field manager that writes /scale. */
export const autoscaler = "enodia-autoscaler";

/** Who has the field. The API server keeps no time of a write through /scale. */
interface FieldManager {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
}

export interface Owned {
  readonly managers: readonly FieldManager[];
  /** The time at which the autoscaler has set the number last; undefined when it never did. */
  readonly lastSet: string | undefined;
  /** The annotation by which the number is handed back: what came after this time of ours is to stand no more. */
  readonly resume: string | undefined;
}

export type Ownership =
  | { readonly type: "ours" }
  /** Nobody: the number was never given, or whoever applied it has left it out, by which it falls to its default. */
  | { readonly type: "nobody" }
  /** By somebody who has set it once, before the autoscaler came. */
  | { readonly type: "free" }
  /** By somebody who says in an applied object what it is, and will say so again. */
  | { readonly type: "applied"; readonly manager: string }
  /** By somebody who has set it since. */
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
