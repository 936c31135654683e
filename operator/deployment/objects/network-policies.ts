// The network policies of ranks and gateways; users add their own. Pure.
import { ports } from "../../../crds/common.ts";
import { downloaderComponent } from "../../../crds/download.ts";
import { natsOf } from "../../../crds/nats-access.ts";
import { weightServerComponent } from "../../../crds/weight-server.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { anywhere, dns, operatorPods, tcp } from "../../pods/network-policy.ts";
import { type Component, names, objectMeta, type RenderContext, selectorLabels } from "./context.ts";

type Fields = Readonly<Record<string, unknown>>;

const watched: Fields = { ports: [tcp(ports.metrics), tcp(ports.probes)] };
const schemePorts: Readonly<Record<string, number>> = { "nats:": 4222, "tls:": 4222, "http:": 80, "https:": 443 };
/** Up to its namespace: a shorter name may be any host. */
const serviceHost = /^[^.]+\.([^.]+)\.svc(?:\.|$)/;

export function workersPolicy(context: RenderContext): KubeObject {
  const { deployment, settings } = context;
  const nats = natsOf(deployment.spec, settings)?.url;
  return policy(context, "worker", {
    ingress: [
      {
        from: [pods(context, "worker"), pods(context, "gateway"), ...operatorPods(context.settings.networkPolicies)],
        ports: [tcp(ports.grpc)],
      },
      { from: [pods(context, "worker")], ports: [tcp(ports.engine)] },
      watched,
    ],
    egress: [
      toWorkers(context, [ports.grpc, ports.engine]),
      ...toWeightServer(context),
      dns,
      ...toUrl(nats),
      ...toUrl(settings.otlpEndpoint),
    ],
  });
}

export function gatewaysPolicy(context: RenderContext): KubeObject {
  const { jwt } = context.deployment.spec.gateway;
  const keys = jwt?.jwksUri ?? jwt?.issuer; // a discovery document that names another port needs a policy of its own
  return policy(context, "gateway", {
    ingress: [{ ports: [tcp(ports.http)] }, { from: operatorPods(context.settings.networkPolicies), ports: [tcp(ports.grpc)] }, watched],
    egress: [toWorkers(context), dns, ...toUrl(context.settings.otlpEndpoint), ...toUrl(keys)],
  });
}

/** A model may be anywhere but where nodes answer. */
export function downloaderPolicy(context: RenderContext): KubeObject {
  return policy(context, downloaderComponent, {
    ingress: [{ from: operatorPods(context.settings.networkPolicies), ports: [tcp(ports.progress)] }],
    egress: anywhere,
  });
}

/** It calls nobody unless it downloads the model itself. */
export function weightServerPolicy(context: RenderContext): KubeObject {
  return policy(context, weightServerComponent, {
    ingress: [
      { from: [pods(context, "worker")], ports: [tcp(ports.grpc)] },
      { from: operatorPods(context.settings.networkPolicies), ports: [tcp(ports.progress)] },
      { ports: [tcp(ports.probes)] },
    ],
    egress: context.deployment.spec.model.cache?.ephemeral ? anywhere : [],
  });
}

const policyNames = {
  worker: names.workers,
  gateway: names.gateway,
  [downloaderComponent]: names.downloader,
  [weightServerComponent]: names.weightServer,
} as const;

function policy(
  context: RenderContext,
  component: keyof typeof policyNames,
  rules: { ingress: readonly Fields[]; egress: readonly Fields[] },
): KubeObject {
  const { name } = context.deployment.metadata;
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: objectMeta(context, policyNames[component](name), component),
    spec: { podSelector: { matchLabels: selectorLabels(name, component) }, policyTypes: ["Ingress", "Egress"], ...rules },
  };
}

const pods = ({ deployment }: RenderContext, component: Component): Fields => ({
  podSelector: { matchLabels: selectorLabels(deployment.metadata.name, component) },
});

const toWorkers = (context: RenderContext, of: readonly number[] = [ports.grpc]): Fields => ({
  to: [pods(context, "worker")],
  ports: of.map(tcp),
});

const toWeightServer = (context: RenderContext): Fields[] =>
  context.weightServer ? [{ to: [pods(context, weightServerComponent)], ports: [tcp(ports.grpc)] }] : [];

/** A Service: all pods of its namespace, since policies see pod ports. Other hosts: the port. */
function toUrl(url: string | undefined): Fields[] {
  if (!url) return [];
  const { hostname, port, protocol } = new URL(url);
  const namespace = serviceHost.exec(hostname)?.[1];
  if (namespace) return [{ to: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": namespace } } }] }];
  return [{ ports: [tcp(port === "" ? (schemePorts[protocol] ?? schemePorts["https:"] ?? 443) : Number(port))] }];
}
