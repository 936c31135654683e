// `enodia namespace`: the RoleBinding as it is printed, made and taken back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { grantBinding, grantCommand, granteeDefault } from "../../kube/grant.ts";
import { resources } from "../../kube/kube.ts";
import { acts } from "./namespace.ts";

const of = (kube: FakeKube, said: string[], dryRun = false) => ({
  ...granteeDefault,
  kube: () => kube,
  dryRun,
  print: (text: string) => void said.push(text),
});

test("grant makes one RoleBinding, again without a change, and revoke takes it back; a dry run changes nothing", async () => {
  const kube = new FakeKube();
  const said: string[] = [];
  const bindings = () => kube.all(resources.roleBindings).map(({ metadata, roleRef, subjects }) => [metadata.namespace, roleRef, subjects]);
  await acts.grant("team", of(kube, said, true));
  assert.deepEqual([bindings(), parse(said[0] ?? "")], [[], grantBinding("team", granteeDefault)]);
  for (let i = 0; i < 2; i++) await acts.grant("team", of(kube, said));
  const subject = { kind: "ServiceAccount", namespace: "enodia-system", name: "enodia" };
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "enodia-namespace" };
  assert.deepEqual(bindings(), [["team", roleRef, [subject]]]);
  await acts.revoke("team", of(kube, said, true));
  assert.equal(bindings().length, 1);
  for (let i = 0; i < 2; i++) await acts.revoke("team", of(kube, said));
  assert.deepEqual(bindings(), []);
  assert.match(said.at(-1) ?? "", /team: there is no RoleBinding enodia-namespace/);
});

test("a command names what is not the default", () => {
  assert.equal(grantCommand("team", granteeDefault), "enodia namespace grant team");
  assert.equal(
    grantCommand("team", { role: "x-namespace", operator: "sys/x" }),
    "enodia namespace grant team --operator sys/x --role x-namespace",
  );
});
