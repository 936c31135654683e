// A process's health, and its servers: /healthz and /readyz (503 with reasons) on one port for the kubelet, /metrics on another
// (DECISIONS.md 2).
import type { IncomingMessage, ServerResponse } from "node:http";
import { type RefusalCounter, refusalReport } from "../net/connections.ts";
import { type BoundedServer, listenBounded } from "./bounded-server.ts";
import type { Log } from "./log.ts";
import { metricsContentType, openMetricsContentType } from "./runtime-metrics.ts";

export interface Health {
  /** /readyz shows the reason. */
  notReady(check: string, reason: string): void;
  ready(check: string): void;
  /** /readyz shows it, and the process stays ready. */
  warn(check: string, reason: string): void;
  /** /healthz fails from now on, so that the kubelet restarts the container. */
  dead(reason: string): void;
  /** "check: reason" of each failed check; empty = ready. */
  reasons(): string[];
  /** "check: reason". */
  warnings(): string[];
  deadReason(): string | undefined;
}

export function createHealth(initial: Readonly<Record<string, string>> = {}): Health {
  const failing = new Map<string, string>(Object.entries(initial));
  const warned = new Map<string, string>();
  const textsOf = (checks: ReadonlyMap<string, string>) => [...checks].map(([check, reason]) => `${check}: ${reason}`);
  let dead: string | undefined;
  return {
    notReady: (check, reason) => void failing.set(check, reason),
    ready: (check) => {
      failing.delete(check);
      warned.delete(check);
    },
    warn: (check, reason) => void warned.set(check, reason),
    dead: (reason) => {
      dead ??= reason;
    },
    reasons: () => [...(dead === undefined ? [] : [`dead: ${dead}`]), ...textsOf(failing)],
    warnings: () => textsOf(warned),
    deadReason: () => dead,
  };
}

export interface HealthServer {
  readonly probePort: number;
  readonly metricsPort: number;
  close(): Promise<void>;
}

interface Scrapable extends RefusalCounter {
  text(): Promise<string>;
  openMetrics(): Promise<string>;
  onCollect(callback: () => void): void;
  set(name: "enodia_ready", value: number): void;
}

export interface HealthServerOptions {
  readonly health: Health;
  readonly metrics: Scrapable;
  readonly probePort: number;
  readonly metricsPort: number;
  readonly host?: string;
  readonly log: Log;
}

/** The server of a process without metrics. */
export async function serveProbes({
  health,
  probePort,
  host,
  log,
  metrics,
}: Omit<HealthServerOptions, "metrics" | "metricsPort"> & { readonly metrics?: RefusalCounter }): Promise<BoundedServer> {
  const at = host === undefined ? {} : { host };
  const report = refusalReport("probe", { log, metrics });
  return listenBounded({ ...at, name: "probe", port: probePort, report, handle: handler(probePaths(health), log) });
}

export async function serveHealth(options: HealthServerOptions): Promise<HealthServer> {
  const { health, metrics, host } = options;
  metrics.onCollect(() => metrics.set("enodia_ready", health.reasons().length === 0 ? 1 : 0));
  const at = host === undefined ? {} : { host };
  const probes = await serveProbes(options);
  let scrapes: BoundedServer;
  try {
    scrapes = await listenBounded({
      ...at,
      name: "metrics",
      port: options.metricsPort,
      report: refusalReport("metrics", options),
      handle: handler(metricsPaths(metrics), options.log),
    });
  } catch (caught) {
    await probes.close();
    throw caught;
  }
  const close = async () => void (await Promise.all([probes.close(), scrapes.close()]));
  return { probePort: probes.port, metricsPort: scrapes.port, close };
}

type Reply = readonly [status: number, type: string, body: string];
type Paths = Readonly<Record<string, (request: IncomingMessage) => Reply | Promise<Reply>>>;
const plain = "text/plain; charset=utf-8";

const probePaths = (health: Health): Paths => ({
  "/healthz": () => {
    const dead = health.deadReason();
    return dead === undefined ? [200, plain, "ok\n"] : [503, plain, `${dead}\n`];
  },
  "/readyz": () => {
    const reasons = health.reasons();
    if (reasons.length > 0) return [503, plain, `${reasons.join("\n")}\n`];
    return [200, plain, `${["ok", ...health.warnings()].join("\n")}\n`];
  },
});

/** Clients that do not ask for OpenMetrics get the older text. */
const metricsPaths = (metrics: Scrapable): Paths => ({
  "/metrics": async ({ headers }) =>
    (headers.accept ?? "").includes("application/openmetrics-text")
      ? [200, openMetricsContentType, await metrics.openMetrics()]
      : [200, metricsContentType, await metrics.text()],
});

function handler(paths: Paths, log: Log): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    answer(paths, request).then(
      (reply) => send(response, reply, request.method === "HEAD"),
      (err) => {
        log.error({ err, path: request.url }, "health or metrics could not be answered");
        send(response, [500, plain, "internal error\n"]);
      },
    );
  };
}

async function answer(paths: Paths, request: IncomingMessage): Promise<Reply> {
  if (request.method !== "GET" && request.method !== "HEAD") return [405, plain, "only GET and HEAD\n"];
  const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
  const found = Object.hasOwn(paths, path) ? paths[path] : undefined;
  return found?.(request) ?? [404, plain, `not found; here is ${Object.keys(paths).join(" and ")}\n`];
}

function send(response: ServerResponse, [status, type, body]: Reply, headOnly = false): void {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(headOnly ? undefined : body);
}
