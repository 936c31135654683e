// Prometheus text of a pod, through the API server's proxy, so that it works on any cluster.
import type { Kubectl } from "./kubectl.ts";

/** A pod on a dead node never answers, and the proxy would wait for minutes. */
const timeoutSeconds = 3;

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export async function scrape(kubectl: Kubectl, namespace: string, pod: string, port = 9464): Promise<readonly Sample[]> {
  const path = `/api/v1/namespaces/${namespace}/pods/${pod}:${port}/proxy/metrics`;
  return parse(await kubectl.run(["get", "--raw", path, `--request-timeout=${timeoutSeconds}s`]));
}

export function parse(text: string): readonly Sample[] {
  return text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .flatMap((line) => {
      const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (!match) return [];
      const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1] ?? "", m[2] ?? ""]));
      return [{ name: match[1] ?? "", labels, value: Number(match[3]) }];
    });
}

export function sum(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number {
  return samples
    .filter((sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value))
    .reduce((total, sample) => total + sample.value, 0);
}
