// Prometheus text of a pod, through the API server's proxy, so that it works on any cluster.
import { parseSamples, type Sample } from "../../../operator/views/prometheus-text.ts";
import type { Kubectl } from "./kubectl.ts";

export { parseSamples as parse, type Sample };

/** A pod on a dead node never answers, and the proxy would wait for minutes. */
const timeoutMs = 3_000;

export async function scrape(kubectl: Kubectl, namespace: string, pod: string, port = 9464): Promise<readonly Sample[]> {
  const path = `/api/v1/namespaces/${namespace}/pods/${pod}:${port}/proxy/metrics`;
  return parseSamples(await kubectl.raw(path, timeoutMs));
}

export function sum(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number {
  return samples
    .filter((sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value))
    .reduce((total, sample) => total + sample.value, 0);
}
