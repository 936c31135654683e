// The question whether the autoscaler may set spec.replicas: metadata.managedFields says who else does. Of an autoscaler, a GitOps tool
// and a person with kubectl one alone can have the number, or it goes to and fro. Pure.

/** The field manager that writes /scale. */
export const autoscaler = "enodia-autoscaler";

/** Who has the field, and the time of their last write. */
interface FieldManager {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
  readonly time: string | undefined;
}

export interface Owned {
  readonly managers: readonly FieldManager[];
  /** True when the autoscaler has set the number before. */
  readonly hasScaled: boolean;
  /** The annotation by which the number is handed back: the time of the write that is to stand no more. */
  readonly resume: string | undefined;
}

export type Ownership =
  /** `setAt`: when the number was set by this autoscaler. */
  | { readonly type: "ours"; readonly setAt: string | undefined }
  /** Nobody: the number was never given, or whoever applied it has left it out, by which it falls to its default. */
  | { readonly type: "nobody" }
  /** By somebody who has set it once, before the autoscaler came. */
  | { readonly type: "free" }
  /** By somebody who says in an applied object what it is, and will say so again. */
  | { readonly type: "applied"; readonly manager: string }
  /** By somebody who has set it since. */
  | { readonly type: "taken"; readonly manager: string; readonly time: string };

export function ownership({ managers, hasScaled, resume }: Owned): Ownership {
  const others = managers.filter(({ manager }) => manager !== autoscaler);
  const applied = others.find(({ operation }) => operation === "Apply");
  if (applied) return { type: "applied", manager: applied.manager };
  const ours = managers.find(({ manager }) => manager === autoscaler);
  if (ours) return { type: "ours", setAt: ours.time };
  const other = others[0];
  if (!other) return { type: "nobody" };
  const isHandedBack = other.time !== undefined && other.time === resume;
  return hasScaled && !isHandedBack ? { type: "taken", manager: other.manager, time: other.time ?? "" } : { type: "free" };
}
