// The operator as a process against a real control plane, with exactly the permissions that the chart gives it with `watchNamespaces`.
import { type ChildProcess, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Scope, installName as templated } from "../../operator/kube/resources.ts";
import { rulesOf } from "../../operator/rbac.ts";
import { type ControlPlane, root } from "./control-plane.ts";

/** As it is named where nobody says another. */
export const installName = "enodia";

/** Where it runs, and the namespaces in which it works: in all of them where none is given. */
interface Install {
  readonly system: string;
  readonly watched: readonly string[];
}

/** Its account and the roles of it. The namespaces have to be there. */
export function accessObjects({ system, watched }: Install): object[] {
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "operator", namespace: system } },
    ...grant("cluster", undefined, system),
    ...(watched.length > 0 ? watched : [undefined]).flatMap((namespace) => grant("watched", namespace, system)),
    ...grant("release", system, system),
  ];
}

/** A role with the rules of one scope, and its binding. */
function grant(scope: Scope, within: string | undefined, system: string): object[] {
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const kind = within ? "Role" : "ClusterRole";
  const metadata = { name: `operator-${scope}`, ...(within ? { namespace: within } : {}) };
  const rules = rulesOf(scope).map(({ why: _, scope: __, option: ___, resourceNames, ...rule }) => ({
    ...rule,
    ...(resourceNames ? { resourceNames: resourceNames.map((name) => (name === templated ? installName : name)) } : {}),
  }));
  return [
    { apiVersion, kind, metadata, rules },
    {
      apiVersion,
      kind: `${kind}Binding`,
      metadata,
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind, name: metadata.name },
      subjects: [{ kind: "ServiceAccount", name: "operator", namespace: system }],
    },
  ];
}

/** A kubeconfig in `folder` with the ServiceAccount's token instead of the administrator's certificate. */
export async function operatorKubeconfig({ kubectl }: Pick<ControlPlane, "kubectl">, system: string, folder: string): Promise<string> {
  const token = (await kubectl("-n", system, "create", "token", "operator", "--duration=2h")).trim();
  const config = JSON.parse(await kubectl("config", "view", "--raw", "-o", "json"));
  const file = join(folder, "kubeconfig.json");
  const users = config.users.map((user: { name: string }) => ({ name: user.name, user: { token } }));
  writeFileSync(file, JSON.stringify({ ...config, users }), { mode: 0o600 });
  return file;
}

export interface OperatorProcess {
  readonly child: ChildProcess;
  readonly log: string[];
}

interface ProcessOptions extends Install {
  readonly replica: string;
  readonly kubeconfig: string;
  readonly folder: string;
  readonly env?: Readonly<Record<string, string>>;
}

export function startOperatorProcess({ replica, kubeconfig, folder, system, watched, env }: ProcessOptions): OperatorProcess {
  const own = {
    PATH: process.env.PATH,
    HOME: folder,
    ENODIA_POD_NAME: replica,
    ENODIA_NAMESPACE: system,
    ENODIA_WATCH_NAMESPACES: watched.join(","),
    ENODIA_METRICS_PORT: "0",
    ENODIA_PROBE_PORT: "0",
    ENODIA_RUNTIME_IMAGE: "enodia/absent:none",
    ENODIA_RUNTIME_PULL_POLICY: "Never", // a pull that waits for a network would hold up the pod's end too
  };
  const child = spawn(process.execPath, [join(root, "operator/main.ts"), "--kubeconfig", kubeconfig], {
    env: { ...own, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log: string[] = [];
  const collect = (chunk: Buffer) =>
    log.push(
      ...chunk
        .toString()
        .split("\n")
        .filter((line) => line !== ""),
    );
  child.stdout.on("data", collect);
  child.stderr.on("data", collect);
  return { child, log };
}
