// The rule for a field of an owned object that somebody else has set to another value: whoever declares a field has it, the object stays as
// it is, and a condition says so. Only what nobody manages is taken. Pure.
import { labels } from "../../crds/common.ts";
import { weightServerComponent } from "../../crds/weight-server.ts";
import { manager } from "./adoption.ts";

/** The door of `kubectl scale` and of autoscalers. */
const scaleDoor = "scale";
export const replicasField = ".spec.replicas";

/** How the API server calls whoever wrote an object before its fields had managers, or after somebody cleared them. */
const nobody = "before-first-apply";
/** The autoscaler of Kubernetes writes as the process it is a part of; in k3s and MicroK8s that is one for all. */
const autoscalerManagers: readonly string[] = ["kube-controller-manager", "k3s", "kubelite"];
/** `kubectl apply` without --server-side: a declaration, which comes again. */
const declares = "kubectl-client-side-apply";
/** Fields that a message names; the rest is counted. */
const namedMax = 4;

/** A field that another has, as the API server tells it (kube/errors.ts). */
export interface FieldConflict {
  readonly field: string;
  readonly manager: string;
  readonly subresource: string;
  readonly operation: "Apply" | "Update";
}

interface Contested {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly labels?: Readonly<Record<string, string>> };
}

export interface Takeable {
  /** Fields that are taken from anybody. */
  readonly always: readonly string[];
  /** True when no autoscaler has the object as its target: the number that it set is nobody's. */
  readonly unscaled: boolean;
}

/** True when the operator may set the field all the same. */
export function isTakeable(conflict: FieldConflict, { always, unscaled }: Takeable): boolean {
  if (conflict.manager === manager || conflict.manager === nobody) return true;
  if (always.includes(conflict.field)) return true;
  return isByHand(conflict) || (unscaled && isAutoscaled(conflict));
}

/** True when a HorizontalPodAutoscaler has set it. */
export const isAutoscaled = ({ field, manager: by, subresource }: FieldConflict): boolean =>
  field === replicasField && autoscalerManagers.includes(by) && subresource === scaleDoor;

/** One command of a person, such as `kubectl edit` or `kubectl scale`; it is drift, and put back as a deleted object is. */
function isByHand({ manager: by, operation }: FieldConflict): boolean {
  return operation === "Update" && by !== declares && (by === "kubectl" || by.startsWith("kubectl-"));
}

/** The text on an object that stays as it is, with what would let it be as the spec wants it. */
export function conflictText({ kind, metadata }: Contested, conflicts: readonly FieldConflict[]): string {
  const named = conflicts.slice(0, namedMax).map(({ field, manager: by, subresource }) => {
    const door = subresource === "" ? "" : ` (${subresource})`;
    return `${field} is managed by ${by}${door}`;
  });
  const more = conflicts.length > namedMax ? [`${conflicts.length - namedMax} more fields by others`] : [];
  return `${kind} ${metadata.name} stays as it is: ${[...named, ...more].join(", ")}; ${remedy(kind, metadata, conflicts)}`;
}

function remedy(kind: string, { name, namespace, labels: have }: Contested["metadata"], conflicts: readonly FieldConflict[]): string {
  // The spec has no number of weight servers, nor a template of its own for theirs.
  const hasFields = kind === "Deployment" && have?.[labels.component] !== weightServerComponent;
  const wholly = (what: (field: string) => boolean): boolean => hasFields && conflicts.every(({ field }) => what(field));
  if (wholly((field) => field === replicasField))
    return "unset spec.gateway.replicas to leave the number to it, or stop it (delete the autoscaler)";
  const instead = wholly((field) => field.startsWith(".spec.template.")) ? "set it in spec.gateway.podTemplate instead, and " : "";
  const clear = `kubectl -n ${namespace} patch ${kind.toLowerCase()} ${name} --type=merge -p '{"metadata":{"managedFields":[{}]}}'`;
  return `${instead}have its manager leave the field alone; what a manager that is gone has left is cleared by: ${clear}`;
}
