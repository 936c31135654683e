// A real control plane with the CRDs established, and clients to it: what the integration tests begin with.
import { join, resolve } from "node:path";
import { createKube } from "../../operator/kube/client.ts";
import type { Kube } from "../../operator/kube/kube.ts";
import { createTransport, loadKubeConfig } from "../../operator/kube/transport.ts";
import { type Cluster, type UpOptions, up } from "../cluster/cluster.ts";
import { execOk } from "../kit/processes/process.ts";

export const root = resolve(import.meta.dirname, "../..");

export interface ControlPlane {
  readonly cluster: Cluster;
  readonly kube: Kube;
  kubectl(...args: readonly string[]): Promise<string>;
  apply(...objects: readonly object[]): Promise<string>;
}

/** Brings the cluster `name` up; the caller takes it down. Without a node pods are admitted and never run. */
export async function controlPlane(name: string, nodes = 1, more: Pick<UpOptions, "audited" | "etcdMiB"> = {}): Promise<ControlPlane> {
  const cluster = await up({ name, nodes, ...more });
  const { binaries, kubeconfig } = cluster;
  const call = (args: readonly string[], input?: string): Promise<string> =>
    execOk(binaries.kubectl, ["--kubeconfig", kubeconfig, ...args], input === undefined ? {} : { input });
  await call(["apply", "-f", join(root, "crds/manifests")]);
  const crds = ["crd/moedeployments.enodia.dev", "crd/expertplacements.enodia.dev", "crd/moetrainingjobs.enodia.dev"];
  await call(["wait", "--for=condition=Established", ...crds, "--timeout=30s"]);
  return {
    cluster,
    kube: createKube(createTransport(loadKubeConfig(kubeconfig, undefined))),
    kubectl: (...args) => call(args),
    apply: (...objects) => call(["apply", "-f", "-"], objects.map((one) => JSON.stringify(one)).join("\n---\n")),
  };
}
