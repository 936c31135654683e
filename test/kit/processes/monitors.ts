// The chart's PodMonitor and ServiceMonitor as scrape configurations, in the way that the Prometheus operator reads them: what a wrong
// selector, port or label in the chart would do in a cluster, it does here. Reads the fields that the chart uses, and no others. Pure.

interface Requirement {
  readonly key: string;
  readonly operator: string;
  readonly values: readonly string[];
}
interface Endpoint {
  readonly port: string;
  readonly honorLabels?: boolean;
}
interface Monitor {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly spec: {
    readonly namespaceSelector?: { readonly any?: boolean };
    readonly selector: { readonly matchLabels?: Readonly<Record<string, string>>; readonly matchExpressions?: readonly Requirement[] };
    readonly podMetricsEndpoints?: readonly Endpoint[];
    readonly endpoints?: readonly Endpoint[];
  };
}

export interface ScrapeOptions {
  readonly kubeconfig: string;
  readonly interval: string;
}

/** One scrape configuration for each endpoint of each monitor among the objects. */
export function scrapeConfigs(objects: readonly { readonly kind: string }[], options: ScrapeOptions): object[] {
  return objects.flatMap((object) => {
    if (object.kind === "PodMonitor") return configs(object as Monitor, "pod", options);
    return object.kind === "ServiceMonitor" ? configs(object as Monitor, "endpointslice", options) : [];
  });
}

function configs({ metadata, spec }: Monitor, role: "pod" | "endpointslice", { kubeconfig, interval }: ScrapeOptions): object[] {
  const { matchLabels = {}, matchExpressions = [] } = spec.selector;
  const labelled = role === "pod" ? "pod" : "service";
  const keep = (source: string, regex: string) => ({ source_labels: [source], regex, action: "keep" });
  const ofLabel = (key: string, values: readonly string[]) =>
    keep(`__meta_kubernetes_${labelled}_label_${key.replaceAll(/[^a-zA-Z0-9_]/g, "_")}`, values.join("|"));
  const selected = [
    ...Object.entries(matchLabels).map(([key, value]) => ofLabel(key, [value])),
    ...matchExpressions.map(({ key, operator, values }) => {
      if (operator !== "In") throw new Error(`${metadata.name}: operator ${operator} is not known here`);
      return ofLabel(key, values);
    }),
  ];
  const portName = role === "pod" ? "__meta_kubernetes_pod_container_port_name" : "__meta_kubernetes_endpointslice_port_name";
  const namespaces = spec.namespaceSelector?.any ? {} : { namespaces: { names: [metadata.namespace] } };
  return (spec.podMetricsEndpoints ?? spec.endpoints ?? []).map(({ port, honorLabels = false }, index) => ({
    job_name: `${metadata.namespace}/${metadata.name}/${index}`,
    honor_labels: honorLabels,
    scrape_interval: interval,
    scrape_timeout: interval,
    kubernetes_sd_configs: [{ role, kubeconfig_file: kubeconfig, ...namespaces }],
    relabel_configs: [
      { source_labels: ["__meta_kubernetes_pod_phase"], regex: "Failed|Succeeded", action: "drop" },
      ...selected,
      keep(portName, port),
      { source_labels: ["__meta_kubernetes_namespace"], target_label: "namespace" },
      { source_labels: ["__meta_kubernetes_pod_name"], target_label: "pod" },
    ],
  }));
}
