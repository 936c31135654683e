// A real Prometheus as a child process on loopback: started on a configuration and rules, asked by its HTTP API. Knows no dashboards
// and no Kubernetes.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { freePort } from "../network/free-port.ts";
import { stop, until } from "./process.ts";

type Labels = Readonly<Record<string, string>>;

export interface Prometheus {
  /** Of its HTTP API on loopback. */
  readonly url: string;
  /** The series that an instant query gives now. */
  query(expr: string): Promise<readonly { readonly metric: Labels; readonly value: number }[]>;
  /** Active alerts, pending ones too. */
  alerts(): Promise<readonly { readonly labels: Labels; readonly annotations: Labels; readonly state: string }[]>;
  targets(): Promise<readonly { readonly labels: Labels; readonly health: string; readonly lastError: string }[]>;
  /** Exemplars of the last minutes. */
  exemplars(
    expr: string,
  ): Promise<readonly { readonly seriesLabels: Labels; readonly exemplars: readonly { readonly labels: Labels }[] }[]>;
  stop(): Promise<void>;
}

/** The outside of a test: an answer that does not come is a fault of the test's. */
const askTimeoutMs = 30_000;
const readyTimeoutMs = 30_000;
const exemplarsBackSeconds = 600;

export async function startPrometheus(binary: string, config: object, rules: object): Promise<Prometheus> {
  const folder = mkdtempSync(join(tmpdir(), "enodia-prometheus-"));
  writeFileSync(join(folder, "rules.yml"), stringify(rules));
  writeFileSync(join(folder, "prometheus.yml"), stringify({ ...config, rule_files: ["rules.yml"] }));
  const port = await freePort();
  const flags = [
    `--config.file=${join(folder, "prometheus.yml")}`,
    `--storage.tsdb.path=${join(folder, "data")}`,
    `--web.listen-address=127.0.0.1:${port}`,
    "--enable-feature=exemplar-storage",
    "--log.level=warn",
  ];
  const child = spawn(binary, flags, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    said = `${said}${chunk}`.slice(-4_000);
  });
  const url = `http://127.0.0.1:${port}`;
  const close = async (): Promise<void> => {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const ready = async (): Promise<true | undefined> => {
      if (child.exitCode !== null) throw new Error(`Prometheus ended with ${child.exitCode}: ${said}`);
      return (await fetch(`${url}/-/ready`).catch(() => undefined))?.ok ? true : undefined;
    };
    await until("Prometheus to be ready", ready, { timeoutMs: readyTimeoutMs });
  } catch (error) {
    await close();
    throw error;
  }
  const ask = async (path: string, params: Labels = {}): Promise<any> => {
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(params)}`, { signal: AbortSignal.timeout(askTimeoutMs) });
    const body = (await response.json()) as { status: string; data: unknown; error?: string };
    if (body.status !== "success") throw new Error(`${path} ${params.query ?? ""}: ${body.error}`);
    return body.data;
  };
  return {
    url,
    query: async (query) => (await ask("query", { query })).result.map((one: any) => ({ metric: one.metric, value: Number(one.value[1]) })),
    alerts: async () => (await ask("alerts")).alerts,
    targets: async () => (await ask("targets", { state: "active" })).activeTargets,
    exemplars: async (query) => {
      const end = Date.now() / 1000;
      return ask("query_exemplars", { query, start: String(end - exemplarsBackSeconds), end: String(end) });
    },
    stop: close,
  };
}
