// The Kubernetes client of commands, made from their shared options.
import type { Duplex } from "node:stream";
import { AppError } from "../../crds/common.ts";
import { createKube } from "../kube/client.ts";
import type { Kube, KubeObject, Ref, Resource } from "../kube/kube.ts";
import { forwardPort } from "../kube/port-forward.ts";
import { createTransport, loadKubeConfig, type Transport } from "../kube/transport.ts";

export interface ClusterAccess {
  readonly kube: Kube;
  readonly transport: Transport;
  readonly namespace: string;
  /** Connects to a port of a pod, on its loopback too. */
  connect(pod: string, port: number): Promise<Duplex>;
}

/** Throws AppError `NotFound` that says where to look. */
export async function objectOf(kube: Pick<Kube, "get">, resource: Resource, ref: Ref): Promise<KubeObject> {
  const object = await kube.get(resource, ref);
  if (object) return object;
  throw new AppError(`no ${resource.kind} "${ref.name}" in namespace ${ref.namespace}; see: enodia status -A`, { code: "NotFound" });
}

export function openCluster(options: {
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly namespace?: string | undefined;
}): ClusterAccess {
  const config = loadKubeConfig(options.kubeconfig, options.context);
  const transport = createTransport(config);
  const current = config.getContextObject(config.getCurrentContext());
  const namespace = options.namespace ?? current?.namespace ?? "default";
  const connect = (pod: string, port: number): Promise<Duplex> => forwardPort(config, { namespace, pod, port });
  return { kube: createKube(transport), transport, namespace, connect };
}
