// The operator's ServiceAccount with exactly the permissions that the chart gives it, and a kubeconfig of it, for tests that run the
// operator as a process against a real API server.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { rulesOf, type Scope } from "../../operator/rbac.ts";
import type { ControlPlane } from "./control-plane.ts";

export const operatorNamespace = "enodia-system";
/** The operator as the API server knows it. */
export const operatorUser = `system:serviceaccount:${operatorNamespace}:operator`;

/** The account and its roles, as the chart has them with `watchNamespaces`: in one namespace, or in every one where none is given. */
export function operatorAccount(watched: string | undefined): object[] {
  return [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: operatorNamespace } },
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "operator", namespace: operatorNamespace } },
    ...grant("cluster", undefined),
    ...grant("watched", watched),
    ...grant("release", operatorNamespace),
  ];
}

/** A role with the rules of one scope, and its binding. */
function grant(scope: Scope, within: string | undefined): object[] {
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const kind = within ? "Role" : "ClusterRole";
  const metadata = { name: `operator-${scope}`, ...(within ? { namespace: within } : {}) };
  const rules = rulesOf(scope).map(({ why: _, scope: __, option: ___, ...rule }) => rule);
  return [
    { apiVersion, kind, metadata, rules },
    {
      apiVersion,
      kind: `${kind}Binding`,
      metadata,
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind, name: metadata.name },
      subjects: [{ kind: "ServiceAccount", name: "operator", namespace: operatorNamespace }],
    },
  ];
}

/** Writes a kubeconfig with the ServiceAccount's token instead of the administrator's certificate; returns its path. */
export async function operatorKubeconfig(kubectl: ControlPlane["kubectl"], folder: string): Promise<string> {
  const token = (await kubectl("-n", operatorNamespace, "create", "token", "operator", "--duration=2h")).trim();
  const config = JSON.parse(await kubectl("config", "view", "--raw", "-o", "json"));
  const file = join(folder, "kubeconfig.json");
  const users = config.users.map((user: { name: string }) => ({ name: user.name, user: { token } }));
  writeFileSync(file, JSON.stringify({ ...config, users }), { mode: 0o600 });
  return file;
}
