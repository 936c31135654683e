// The grants of the chart's roles, as Helm renders them with and without `watchNamespaces`.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { root } from "../../test/integration/control-plane.ts";
import { execOk } from "../../test/kit/processes/process.ts";
import { grantBinding, granteeDefault } from "../kube/grant.ts";

async function rendered(file: string, ...sets: string[]): Promise<any[]> {
  const { helm } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["helm"] });
  const args = ["template", "enodia", join(root, "charts/enodia"), "-n", "sys", "-s", file];
  return parseAllDocuments(await execOk(helm, [...args, ...sets])).map((document) => document.toJS());
}

/** "ClusterRole" or "Role namespace" -> the resources it grants. */
async function granted(...sets: string[]): Promise<Record<string, string[]>> {
  const objects = await rendered("templates/rbac.yaml", ...sets);
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

test("with rbac.scope=Namespaces it sees its objects, and an owner's one binding gives what watchNamespaces would", async () => {
  const sets = ["--set", "rbac.scope=Namespaces", "--set", "watchNamespaces={a,b}"];
  const objects = await rendered("templates/rbac.yaml", ...sets);
  const role = (name: string): any => objects.find(({ kind, metadata }) => kind === "ClusterRole" && metadata.name === name);
  const cluster = role("enodia").rules.flatMap(({ resources, verbs }: any) => resources.map((one: string) => `${one} ${verbs.join()}`));
  assert.deepEqual(cluster, [
    "nodes get,list,watch",
    "clusterroles get",
    "moedeployments get,list,watch",
    "moedeployments/status patch",
    "moetrainingjobs get,list,watch",
    "moetrainingjobs/status patch",
    "expertplacements/status patch",
  ]);
  const bound = objects.flatMap(({ kind, roleRef, metadata }) =>
    kind.endsWith("Binding") ? [`${metadata.namespace} ${roleRef.name}`] : [],
  );
  assert.deepEqual(bound, ["undefined enodia", "sys enodia-own"]);
  const named = (await rendered("templates/rbac.yaml", ...sets.slice(2))).find(({ metadata }) => metadata.namespace === "a");
  assert.deepEqual(role("enodia-namespace").rules, named.rules);
  const env = (await rendered("templates/deployment.yaml", ...sets))[0].spec.template.spec.containers[0].env;
  const { roleRef, subjects } = grantBinding("a", granteeDefault);
  assert.equal(env.find(({ name }: any) => name === "ENODIA_NAMESPACE_ROLE").value, roleRef && (roleRef as any).name);
  assert.equal(env.find(({ name }: any) => name === "ENODIA_SERVICE_ACCOUNT").value, (subjects as any)[0].name);
  const admins = (await rendered("templates/aggregate-roles.yaml", ...sets)).find(({ metadata }) => metadata.name === "enodia-grant");
  assert.deepEqual(admins.rules[0], {
    apiGroups: ["rbac.authorization.k8s.io"],
    resources: ["clusterroles"],
    resourceNames: ["enodia-namespace"],
    verbs: ["bind"],
  });
  await assert.rejects(rendered("templates/rbac.yaml", ...sets.slice(0, 2)), /name them in watchNamespaces/);
});
