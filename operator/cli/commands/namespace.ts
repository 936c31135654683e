// `enodia namespace grant|revoke`: the RoleBinding by which the operator may work in a namespace.
import { AppError } from "../../../crds/common.ts";
import { type Grantee, grantBinding, granteeDefault } from "../../kube/grant.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { argument, declare, flag, value } from "../command.ts";
import { type ClusterAccess, openCluster } from "../kube.ts";
import { clusterOptions } from "../options.ts";

const { namespace: _, ...cluster } = clusterOptions;
const namespace = argument("<namespace>", "the namespace");
const print = (text: string): void => void process.stdout.write(`${text}\n`);

function operatorName(text: string): string {
  if (/^[^/]+\/[^/]+$/.test(text)) return text;
  throw new AppError("it must be NAMESPACE/SERVICEACCOUNT", { code: "InvalidOption" });
}

const options = {
  ...cluster,
  operator: value("--operator <namespace/account>", "the operator's ServiceAccount", operatorName, granteeDefault.operator),
  role: value("--role <name>", "the chart's ClusterRole with its rights", (text) => text, granteeDefault.role),
  dryRun: flag("--dry-run", "prints the RoleBinding and changes nothing"),
};

export interface NamespaceRequest extends Grantee {
  readonly kube: () => Pick<ClusterAccess["kube"], "get" | "apply" | "delete">;
  readonly dryRun: boolean;
  readonly print: (text: string) => void;
}

const verb = (about: string, act: "grant" | "revoke") =>
  declare({
    about,
    arguments: [namespace],
    options,
    action: async ({ operator, role, dryRun, ...access }, of) => {
      await acts[act](of, { kube: () => openCluster(access).kube, operator, role, dryRun, print });
      return 0;
    },
  });

export const grant = verb(
  "Lets an operator that was installed with rbac.scope=Namespaces work in a namespace. Needs its admin role.",
  "grant",
);
export const revoke = verb("Takes that back. Pods run on, and nobody repairs them or renews their certificates.", "revoke");

async function grantOne(of: string, { kube, dryRun, print: say, ...grantee }: NamespaceRequest): Promise<void> {
  const binding = grantBinding(of, grantee);
  if (dryRun) return say(yamlOf(binding));
  await kube().apply(resources.roleBindings, binding, { manager: "enodia", force: true });
  say(`${of}: operator ${grantee.operator} may work here, by RoleBinding ${grantee.role}`);
}

async function revokeOne(of: string, { kube, dryRun, print: say, ...grantee }: NamespaceRequest): Promise<void> {
  const { metadata } = grantBinding(of, grantee);
  const ref = { namespace: of, name: metadata.name };
  const found = await kube().get(resources.roleBindings, ref);
  if (found === undefined) return say(`${of}: there is no RoleBinding ${ref.name}`);
  if (dryRun) return say(yamlOf(grantBinding(of, grantee)));
  await kube().delete(resources.roleBindings, ref, { uid: found.metadata.uid ?? "" });
  say(`${of}: RoleBinding ${ref.name} is gone`);
}

/** Writes flat maps and lists of maps, since JSON strings are YAML. */
function yamlOf(object: KubeObject): string {
  return Object.entries(object)
    .map(([key, value]) => `${key}: ${JSON.stringify(value)}`)
    .join("\n");
}

export const acts = { grant: grantOne, revoke: revokeOne };
