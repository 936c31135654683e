// What a namespace's owner grants an operator that has no rights of its own there: one RoleBinding. Pure but for the copies that it asks.
import type { ConditionState } from "../../crds/conditions.ts";
import type { Informers } from "./informers.ts";
import type { KubeObject } from "./kube.ts";

export interface Grantee {
  /** The ClusterRole with the operator's rights in a namespace. */
  readonly role: string;
  /** "namespace/name" of its ServiceAccount. */
  readonly operator: string;
}

export const granteeDefault: Grantee = { role: "enodia-namespace", operator: "enodia-system/enodia" };

export function grantBinding(namespace: string, { role, operator }: Grantee): KubeObject {
  const [of = "", name = ""] = operator.split("/");
  return {
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "RoleBinding",
    metadata: { namespace, name: role },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: role },
    subjects: [{ kind: "ServiceAccount", namespace: of, name }],
  };
}

export function grantCommand(namespace: string, { role, operator }: Grantee): string {
  const flags = [
    ...(operator === granteeDefault.operator ? [] : ["--operator", operator]),
    ...(role === granteeDefault.role ? [] : ["--role", role]),
  ];
  return ["enodia namespace grant", namespace, ...flags].join(" ");
}

/** A condition of an object in a namespace where the operator is refused; undefined where it is not. */
export function missingGrant(
  informers: Pick<Informers, "forbidden">,
  grantee: Grantee | undefined,
  { metadata }: KubeObject,
): ConditionState | undefined {
  const { namespace = "", generation = 0 } = metadata;
  const what = grantee && informers.forbidden(namespace);
  if (what === undefined || grantee === undefined) return undefined;
  const message = `the operator may not work in namespace ${namespace} (${what}); its owner grants it by: ${grantCommand(namespace, grantee)}`;
  return { type: "SpecAccepted", status: "False", reason: "NamespaceNotGranted", message, observedGeneration: generation };
}
