// HTTPS to one API server with credentials of a kubeconfig or the pod. client-node provides the credentials only.

import http from "node:http";
import https from "node:https";
import { KubeConfig } from "@kubernetes/client-node";
import { AppError } from "../../crds/common.ts";
import { kubeError, unavailable } from "./errors.ts";
import type { ServerClock } from "./server-clock.ts";

/** Watches are exempt. */
const requestTimeoutMs = 30_000;
/** Connections for requests; nodes and API servers drop those that are idle for minutes. */
const connectionsMax = 32;
const idleMs = 15_000;
/** Largest buffered answer; a page of 500 large objects is well below. */
const responseBytesMax = 256 * 1024 * 1024;

interface Call {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly path: string;
  readonly contentType?: string;
  readonly body?: string;
  readonly signal?: AbortSignal;
}

export interface Transport {
  request(call: Call): Promise<string>;
  /** Newline-separated JSON documents, one at a time. */
  stream(call: Call): AsyncIterable<string>;
}

/** client-node's fallback without any kubeconfig. */
const noServer = "http://localhost:8080";

/** `kubeconfig`: path; undefined = $KUBECONFIG, ~/.kube/config or the pod's credentials. Throws `NoCluster`. */
export function loadKubeConfig(kubeconfig: string | undefined, context: string | undefined): KubeConfig {
  const config = new KubeConfig();
  try {
    if (kubeconfig) config.loadFromFile(kubeconfig);
    else config.loadFromDefault();
  } catch (cause) {
    throw noCluster(`the kubeconfig cannot be read: ${cause instanceof Error ? cause.message : cause}`, cause);
  }
  if (context) config.setCurrentContext(context);
  const server = config.getCurrentCluster()?.server;
  if (!kubeconfig && server === noServer)
    throw noCluster("no kubeconfig: name one with --kubeconfig or KUBECONFIG, or keep it at ~/.kube/config");
  if (server !== undefined) return config;
  const known = config.getContexts().map(({ name }) => name);
  throw noCluster(
    `the kubeconfig has no cluster for context "${config.getCurrentContext() ?? ""}"; its contexts are ${known.join(", ") || "none"}`,
  );
}

function noCluster(message: string, cause?: unknown): AppError {
  return new AppError(message, { code: "NoCluster", operation: "finding the API server", ...(cause === undefined ? {} : { cause }) });
}

export interface TransportOptions {
  /** Reuses connections. Leader election does not, since all kept ones may be dead at once. Each stream has its own. */
  readonly keep?: boolean;
  /** Learns the API server's time. */
  readonly clock?: Pick<ServerClock, "asks">;
}

export function createTransport(config: KubeConfig, { keep = true, clock }: TransportOptions = {}): Transport {
  const { server = "", proxyUrl } = config.getCurrentCluster() ?? {};
  const kept = { keepAlive: true, maxSockets: connectionsMax, maxFreeSockets: connectionsMax, timeout: idleMs };
  const agent = keep && !proxyUrl ? new (server.startsWith("http:") ? http : https).Agent(kept) : undefined;
  const open = async (call: Call, through?: http.Agent): Promise<http.IncomingMessage> => {
    const options: https.RequestOptions = {};
    await config.applyToHTTPSOptions(options as never);
    const told = clock?.asks();
    const url = new URL(server.replace(/\/$/, "") + call.path);
    const response = await send(url, call, through ? Object.assign(options, { agent: through }) : options);
    told?.(response.headers.date);
    return response;
  };
  return {
    async request(call) {
      const operation = `${call.method} ${call.path}`;
      // AbortSignal.timeout would live on after the answer.
      const late = new AbortController();
      const timer = setTimeout(() => late.abort(new DOMException(`no answer in ${requestTimeoutMs} ms`, "TimeoutError")), requestTimeoutMs);
      const signal = call.signal ? AbortSignal.any([late.signal, call.signal]) : late.signal;
      let response: http.IncomingMessage;
      let body: string;
      try {
        response = await open({ ...call, signal }, agent);
        body = await readAll(response);
      } catch (cause) {
        throw unavailable(cause, operation);
      } finally {
        clearTimeout(timer);
      }
      const status = response.statusCode ?? 0;
      if (status < 200 || status > 299) throw kubeError(status, body, operation);
      return body;
    },
    async *stream(call) {
      const operation = `${call.method} ${call.path}`;
      let response: http.IncomingMessage;
      try {
        response = await open(call);
      } catch (cause) {
        throw unavailable(cause, operation);
      }
      if (response.statusCode !== 200) throw kubeError(response.statusCode ?? 0, await readAll(response), operation);
      yield* lines(response, operation);
    },
  };
}

/** The same server with a bearer token and none of our credentials: a client certificate would take precedence. */
export function bearerTransport(config: KubeConfig, token: string): Transport {
  const cluster = config.getCurrentCluster();
  if (!cluster) throw noCluster("the kubeconfig has no cluster");
  const bearer = new KubeConfig();
  bearer.loadFromClusterAndUser(cluster, { name: "bearer", token });
  return createTransport(bearer);
}

function send(url: URL, call: Call, options: https.RequestOptions): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const client = url.protocol === "http:" ? http : https;
    const headers = {
      ...(options.headers as Record<string, string> | undefined),
      accept: "application/json",
      "user-agent": "enodia-operator",
      ...(call.body === undefined
        ? {}
        : { "content-type": call.contentType ?? "application/json", "content-length": Buffer.byteLength(call.body) }),
    };
    const request = client.request(url, { ...options, method: call.method, headers, ...(call.signal ? { signal: call.signal } : {}) });
    request.once("response", resolve);
    request.once("error", reject);
    request.end(call.body);
  });
}

async function readAll(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.byteLength;
    if (bytes > responseBytesMax) throw new Error(`answer above ${responseBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

export async function* linesOf(response: http.IncomingMessage, bytesMax: number): AsyncGenerator<string, void, void> {
  response.setEncoding("utf8");
  let rest = "";
  for await (const chunk of response as AsyncIterable<string>) {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop() ?? "";
    if (rest.length > bytesMax) throw new Error(`a line above ${bytesMax} bytes`);
    for (const line of parts) if (line !== "") yield line;
  }
}

async function* lines(response: http.IncomingMessage, operation: string): AsyncIterable<string> {
  try {
    yield* linesOf(response, responseBytesMax);
  } catch (cause) {
    throw unavailable(cause, operation);
  } finally {
    response.destroy();
  }
}
