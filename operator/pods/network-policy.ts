// What the network policies of both planes share. Pure.
import { forbiddenRanges } from "../../crds/download.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Unset where the operator runs outside the cluster: it creates no policies then. */
export type PolicySettings = { readonly operatorNamespace: string } | undefined;

export const tcp = (port: number): Fields => ({ protocol: "TCP", port });

/** OpenShift's DNS pods listen on 5353. */
const dnsPorts = [53, 5353];
export const dns: Fields = { ports: dnsPorts.flatMap((port) => [{ protocol: "UDP", port }, tcp(port)]) };

/** Pods by name, since some network plugins do not count them as addresses. */
export const anywhere: readonly Fields[] = [
  {
    to: [
      { namespaceSelector: {} },
      { ipBlock: { cidr: "0.0.0.0/0", except: forbiddenRanges.ipv4 } },
      { ipBlock: { cidr: "::/0", except: forbiddenRanges.ipv6 } },
    ],
  },
  dns,
];

export function operatorPods(settings: PolicySettings): Fields[] {
  if (!settings) return [];
  return [
    {
      namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": settings.operatorNamespace } },
      podSelector: { matchLabels: { "app.kubernetes.io/component": "operator" } },
    },
  ];
}
