// The rule for fields of owned objects that another manager has set: they stay, and a condition reports them. Only fields that nobody
// manages are taken. Pure.
import { labels } from "../../crds/common.ts";
import { weightServerComponent } from "../../crds/weight-server.ts";
import { manager } from "./adoption.ts";

const scaleSubresource = "scale";
export const replicasField = ".spec.replicas";

/** The API server's name for writers from before managed fields, or after they were cleared. */
const nobody = "before-first-apply";
/** The HPA controller writes as its process, which k3s and MicroK8s share with everything else. */
const autoscalerManagers: readonly string[] = ["kube-controller-manager", "k3s", "kubelite"];
/** `kubectl apply` without --server-side will be repeated, so that it counts as a declaration. */
const declares = "kubectl-client-side-apply";
const namedMax = 4;

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
  /** Fields that are always taken. */
  readonly always: readonly string[];
  /** No autoscaler targets the object, so that its number is nobody's. */
  readonly unscaled: boolean;
}

export function isTakeable(conflict: FieldConflict, { always, unscaled }: Takeable): boolean {
  if (conflict.manager === manager || conflict.manager === nobody) return true;
  if (always.includes(conflict.field)) return true;
  return isByHand(conflict) || (unscaled && isAutoscaled(conflict));
}

export const isAutoscaled = ({ field, manager: by, subresource }: FieldConflict): boolean =>
  field === replicasField && autoscalerManagers.includes(by) && subresource === scaleSubresource;

/** A single command such as `kubectl edit` is drift and is reverted. */
function isByHand({ manager: by, operation }: FieldConflict): boolean {
  return operation === "Update" && by !== declares && (by === "kubectl" || by.startsWith("kubectl-"));
}

export function conflictText({ kind, metadata }: Contested, conflicts: readonly FieldConflict[]): string {
  const named = conflicts.slice(0, namedMax).map(({ field, manager: by, subresource }) => {
    const through = subresource === "" ? "" : ` (${subresource})`;
    return `${field} is managed by ${by}${through}`;
  });
  const more = conflicts.length > namedMax ? [`${conflicts.length - namedMax} more fields by others`] : [];
  return `${kind} ${metadata.name} stays as it is: ${[...named, ...more].join(", ")}; ${remedy(kind, metadata, conflicts)}`;
}

function remedy(kind: string, { name, namespace, labels: have }: Contested["metadata"], conflicts: readonly FieldConflict[]): string {
  // The spec has no fields for weight servers.
  const hasFields = kind === "Deployment" && have?.[labels.component] !== weightServerComponent;
  const wholly = (what: (field: string) => boolean): boolean => hasFields && conflicts.every(({ field }) => what(field));
  if (wholly((field) => field === replicasField))
    return "unset spec.gateway.replicas to leave the number to it, or stop it (delete the autoscaler)";
  const instead = wholly((field) => field.startsWith(".spec.template.")) ? "set it in spec.gateway.podTemplate instead, and " : "";
  const clear = `kubectl -n ${namespace} patch ${kind.toLowerCase()} ${name} --type=merge -p '{"metadata":{"managedFields":[{}]}}'`;
  return `${instead}have its manager leave the field alone; what a manager that is gone has left is cleared by: ${clear}`;
}
