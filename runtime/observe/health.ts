// The health and metrics server of every process: GET /healthz, /readyz (503 with the reasons) and /metrics.
// `Health` is what the process knows of itself; the server only shows it.
//
//   const health = createHealth();
//   health.notReady("plan", "no plan yet");   health.ready("plan");   health.dead("engine thread ended: ...");
//   const server = await serveHealth({ health, metrics, port: 9464, log });   await server.close();
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { AppError } from "../../crds/common.ts";
import type { Log } from "./log.ts";
import { metricsContentType } from "./metrics.ts";

const requestTimeoutMs = 10_000;
const connectionsMax = 64;

export interface Health {
  /** Takes note that a check does not hold, with the reason that /readyz shows. */
  notReady(check: string, reason: string): void;
  /** Takes note that a check holds. */
  ready(check: string): void;
  /** /healthz fails from now on, so that the kubelet restarts the container. Only for what cannot heal by itself. */
  dead(reason: string): void;
  /** The checks that do not hold, "check: reason". Empty = ready. */
  reasons(): string[];
  deadReason(): string | undefined;
}

export function createHealth(initial: Readonly<Record<string, string>> = {}): Health {
  const failing = new Map<string, string>(Object.entries(initial));
  let dead: string | undefined;
  return {
    notReady: (check, reason) => void failing.set(check, reason),
    ready: (check) => void failing.delete(check),
    dead: (reason) => {
      dead ??= reason;
    },
    reasons: () => [...(dead === undefined ? [] : [`dead: ${dead}`]), ...[...failing].map(([check, reason]) => `${check}: ${reason}`)],
    deadReason: () => dead,
  };
}

export interface HealthServer {
  readonly port: number;
  close(): Promise<void>;
}

/** The part of Metrics that the server needs; any process kind fits. */
interface Scrapable {
  text(): Promise<string>;
  onCollect(callback: () => void): void;
  set(name: "enodia_ready", value: number): void;
}

export interface HealthServerOptions {
  readonly health: Health;
  readonly metrics: Scrapable;
  readonly port: number;
  readonly host?: string;
  readonly log: Log;
}

export async function serveHealth(options: HealthServerOptions): Promise<HealthServer> {
  const { health, metrics, log } = options;
  metrics.onCollect(() => metrics.set("enodia_ready", health.reasons().length === 0 ? 1 : 0));
  const server = createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
    answer(request, options).then(
      (reply) => send(response, reply, request.method === "HEAD"),
      (err) => {
        log.error({ err }, "scrape failed");
        send(response, [500, plain, "internal error\n"]);
      },
    );
  });
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(new AppError(`metrics port ${options.port}: ${cause.message}`, { code: "ListenFailed", cause })),
    );
    server.listen(options.port, options.host ?? "0.0.0.0", resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

type Reply = readonly [status: number, type: string, body: string];
const plain = "text/plain; charset=utf-8";

async function answer(request: IncomingMessage, { health, metrics }: HealthServerOptions): Promise<Reply> {
  if (request.method !== "GET" && request.method !== "HEAD") return [405, plain, "only GET and HEAD\n"];
  const path = (request.url ?? "/").split("?", 1)[0];
  if (path === "/metrics") return [200, metricsContentType, await metrics.text()];
  if (path === "/healthz") {
    const dead = health.deadReason();
    return dead === undefined ? [200, plain, "ok\n"] : [503, plain, `${dead}\n`];
  }
  if (path === "/readyz") {
    const reasons = health.reasons();
    return reasons.length === 0 ? [200, plain, "ok\n"] : [503, plain, `${reasons.join("\n")}\n`];
  }
  return [404, plain, "not found: /healthz, /readyz and /metrics are here\n"];
}

function send(response: ServerResponse, [status, type, body]: Reply, headOnly = false): void {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(headOnly ? undefined : body);
}
