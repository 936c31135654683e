// The grants of the chart's roles, as Helm renders them with and without `watchNamespaces`.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { root } from "../../test/integration/control-plane.ts";
import { execOk } from "../../test/kit/processes/process.ts";

/** "ClusterRole" or "Role namespace" -> the resources it grants. */
async function granted(...sets: string[]): Promise<Record<string, string[]>> {
  const { helm } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["helm"] });
  const args = ["template", "enodia", join(root, "charts/enodia"), "-n", "sys", "--kube-version", "1.31.0", "-s", "templates/rbac.yaml"];
  const objects: any[] = parseAllDocuments(await execOk(helm, [...args, ...sets])).map((document) => document.toJS());
  const at = ({ kind, metadata }: any) => [kind, metadata.namespace].filter(Boolean).join(" ");
  for (const role of objects.filter((object) => object.rules)) {
    const binding = objects.find(
      (object) => object.roleRef?.name === role.metadata.name && object.metadata.namespace === role.metadata.namespace,
    );
    assert.equal(binding?.roleRef.kind, role.kind, `${at(role)} is bound`);
    assert.deepEqual(binding.subjects, [{ kind: "ServiceAccount", name: "enodia", namespace: "sys" }]);
  }
  const roles = objects.filter((object) => object.rules);
  return Object.fromEntries(roles.map((role) => [at(role), role.rules.flatMap((rule: any) => rule.resources)]));
}

test("without watchNamespaces the operator may work in every namespace, and leads by a lease and keeps CAs in its own only", async () => {
  const roles = await granted();
  assert.deepEqual(Object.keys(roles), ["ClusterRole", "Role sys"]);
  assert.ok(["nodes", "secrets", "pods", "moedeployments"].every((resource) => roles.ClusterRole?.includes(resource)));
  assert.deepEqual(roles["Role sys"], ["leases", "secrets"]);
});

test("with watchNamespaces it reads nodes and its own ClusterRole, and has rights in those namespaces and its own only", async () => {
  const roles = await granted("--set", "watchNamespaces={a,b,a}");
  assert.deepEqual(roles.ClusterRole, ["nodes", "clusterroles"]);
  assert.deepEqual(Object.keys(roles).sort(), ["ClusterRole", "Role a", "Role b", "Role sys"]);
  assert.ok(["secrets", "pods", "moedeployments"].every((resource) => roles["Role a"]?.includes(resource)));
  assert.deepEqual(roles["Role a"], roles["Role b"]);
  assert.deepEqual(roles["Role sys"], ["leases", "secrets"]);
});
