// The way of commands to a cluster: the flags that they share, and the client that these give. Same
// rules as kubectl. Not here: the client itself (../kube/client.ts).
import type { Duplex } from "node:stream";
import { createKube } from "../kube/client.ts";
import type { Kube } from "../kube/kube.ts";
import { forwardPort } from "../kube/port-forward.ts";
import { createTransport, loadKubeConfig, type Transport } from "../kube/transport.ts";

/** Options for node:util parseArgs. */
export const kubeFlags = {
  kubeconfig: { type: "string" },
  context: { type: "string" },
  namespace: { type: "string", short: "n" },
} as const;

export const kubeFlagsHelp = `  -n, --namespace NAME   namespace (default: the context's, else "default")
      --kubeconfig FILE  kubeconfig (default: $KUBECONFIG, else ~/.kube/config)
      --context NAME     context of that kubeconfig (default: its current one)`;

export interface ClusterAccess {
  readonly kube: Kube;
  readonly transport: Transport;
  readonly namespace: string;
  /** Reaches a port of a pod of the namespace, on its loopback too. */
  connect(pod: string, port: number): Promise<Duplex>;
}

export function openCluster(flags: {
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly namespace?: string | undefined;
}): ClusterAccess {
  const config = loadKubeConfig(flags.kubeconfig, flags.context);
  const transport = createTransport(config);
  const current = config.getContextObject(config.getCurrentContext());
  const namespace = flags.namespace ?? current?.namespace ?? "default";
  const connect = (pod: string, port: number): Promise<Duplex> => forwardPort(config, { namespace, pod, port });
  return { kube: createKube(transport), transport, namespace, connect };
}
