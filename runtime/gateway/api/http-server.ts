// The gateway's HTTP server, or HTTPS with a certificate that it reloads.
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer as createHttpsServer, type Server as HttpsServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { join } from "node:path";
import { createAdaptorServer, type ServerType } from "@hono/node-server";
import { AppError } from "../../../crds/common.ts";
import { Connections, type RefusalCounter, refusalReport } from "../../net/connections.ts";
import type { Log } from "../../observe/log.ts";

const headersTimeoutMs = 30_000;
const bodyTimeoutMs = 120_000;
/** Common load balancers have a shorter timeout, so that they close first. */
const idleTimeoutMs = 75_000;
/** At least; a connection in use has one request. An address may have half of them idle, so that an ingress of one pod is not held up. */
const connectionsMax = 4_096;
/** Older connections close after an answer, so that clients spread over gateways. */
const connectionMs = 30_000;
/** A request may be on its way to a closing connection. */
const lastRequestMs = 1_000;
/** The kubelet renews a mounted Secret within about a minute. */
const tlsRefreshMs = 30_000;

export interface HttpServer {
  readonly port: number;
  /** Each answer closes its connection, so that clients go elsewhere; the server still accepts all. */
  drain(): void;
  close(graceMs: number): Promise<void>;
}

interface HttpOptions {
  readonly fetch: Parameters<typeof createAdaptorServer>[0]["fetch"];
  readonly host: string;
  readonly port: number;
  /** Unset = plain HTTP. */
  readonly tlsDir?: string | undefined;
  readonly tlsRefreshMs?: number;
  readonly connectionMs?: number;
  /** So many are answered at once. */
  readonly requestsMax: number;
  readonly metrics: RefusalCounter;
  readonly log: Log;
}

/** Throws AppError `HttpTlsUnreadable` without a certificate. */
export async function listenHttp(options: HttpOptions): Promise<HttpServer> {
  const { fetch, host, port, tlsDir } = options;
  const timeouts = { headersTimeout: headersTimeoutMs, requestTimeout: bodyTimeoutMs, keepAliveTimeout: idleTimeoutMs };
  const pair = tlsDir === undefined ? undefined : await readPair(tlsDir);
  const server: ServerType = pair
    ? createAdaptorServer({ fetch, createServer: createHttpsServer, serverOptions: { ...timeouts, ...pair, minVersion: "TLSv1.2" } })
    : createAdaptorServer({ fetch, serverOptions: timeouts });
  const total = Math.max(connectionsMax, 4 * options.requestsMax);
  new Connections(server as Server, { total, perAddress: total / 2 }, refusalReport("http", options));
  const renewal = pair && tlsDir !== undefined ? renewing(server as HttpsServer, tlsDir, pair, options) : undefined;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new AppError(`HTTP port ${port}: ${cause.message}`, { code: "ListenFailed", cause })));
    server.listen(port, host, resolve);
  });
  let draining = false;
  const isOld = ages(options.connectionMs ?? connectionMs);
  server.prependListener("request", ({ socket }: IncomingMessage, response: ServerResponse) => {
    if (isOld(socket) || draining) response.shouldKeepAlive = false;
  });
  const drain = (): void => {
    draining = true;
    if ("keepAliveTimeout" in server) server.keepAliveTimeout = lastRequestMs; // applies to connections whose answer has begun
  };
  const close = (graceMs: number) =>
    new Promise<void>((resolve) => {
      drain();
      clearInterval(renewal);
      const cut = setTimeout(() => "closeAllConnections" in server && server.closeAllConnections(), graceMs);
      server.close(() => {
        clearTimeout(cut);
        resolve();
      });
      if ("closeIdleConnections" in server) server.closeIdleConnections();
    });
  return { port: (server.address() as AddressInfo).port, drain, close };
}

/** Ages vary by half, so that not all connections close together. */
function ages(ms: number): (socket: object) => boolean {
  const ends = new WeakMap<object, number>();
  return (socket) => {
    const now = performance.now();
    const end = ends.get(socket) ?? now + ms * (0.75 + Math.random() / 2);
    ends.set(socket, end);
    return now >= end;
  };
}

interface Pair {
  readonly cert: Buffer;
  readonly key: Buffer;
}

async function readPair(dir: string): Promise<Pair> {
  try {
    const [cert, key] = await Promise.all([readFile(join(dir, "tls.crt")), readFile(join(dir, "tls.key"))]);
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) throw new Error("tls.key is not the key of tls.crt");
    return { cert, key };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `spec.gateway.tls: ${dir} needs tls.crt and tls.key, as a Secret of type kubernetes.io/tls has them: ${why}`;
    throw new AppError(message, { code: "HttpTlsUnreadable", operation: "reading the certificate of HTTPS", cause });
  }
}

/** New connections use the reloaded pair. An unreadable pair leaves the last one in use and is logged once. */
function renewing(
  server: HttpsServer,
  dir: string,
  first: Pair,
  { log, tlsRefreshMs: everyMs = tlsRefreshMs }: HttpOptions,
): NodeJS.Timeout {
  let current = first;
  let logged = "";
  const look = async (): Promise<void> => {
    try {
      const next = await readPair(dir);
      logged = "";
      if (next.cert.equals(current.cert) && next.key.equals(current.key)) return;
      server.setSecureContext({ ...next, minVersion: "TLSv1.2" });
      current = next;
      log.info({ validTo: new X509Certificate(next.cert).validTo }, "a renewed certificate of HTTPS is in use");
    } catch (caught) {
      const { message } = AppError.from(caught);
      if (message !== logged) log.error({ err: caught }, "the certificate of HTTPS cannot be renewed; the last one stays in use");
      logged = message;
    }
  };
  return setInterval(() => void look(), everyMs).unref();
}
