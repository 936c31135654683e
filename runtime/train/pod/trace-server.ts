// The port that streams a training pod's step times, on loopback, so that only a port-forward reaches it. Steps, time and bytes are
// bounded.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { AppError } from "../../../crds/common.ts";
import { type Span, stepSpansMax, type TracedStep, tracedStepsMax, tracePath } from "../../../crds/training-trace.ts";

const requestMsMax = 5_000;
const connectionsMax = 16;
const askersMax = 4;
const askedMsMax = 60 * 60_000;
/** A slower client is dropped: this memory is not in the rank's estimate. */
export const backlogBytesMax = 16 * 1024 * 1024;

export interface TraceServerOptions {
  readonly host: string;
  readonly port: number;
  readonly pod: string;
  readonly traces: Pick<StepTraces, "watch">;
  /** The offset from the spans' clock to Unix ms. */
  readonly originMs: () => number;
}

export interface TraceServer {
  readonly port: number;
  close(): Promise<void>;
}

export async function listenForTraces(options: TraceServerOptions): Promise<TraceServer> {
  const { host, port } = options;
  let askers = 0;
  const server = createServer({ headersTimeout: requestMsMax, requestTimeout: requestMsMax }, (request, response) => {
    const refusal = refusalOf(request, askers);
    if (refusal !== undefined) return refuse(response, refusal);
    askers += 1;
    response.once("close", () => {
      askers -= 1;
    });
    tell(response, options);
  });
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new AppError(`trace port ${port}: ${cause.message}`, { code: "ListenFailed", cause })));
    server.listen(port, host, resolve);
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

interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

function refusalOf({ method, url }: IncomingMessage, askers: number): Refusal | undefined {
  if (method !== "GET" || url !== tracePath) return { status: 404, code: "NotFound", message: `not found; here is GET ${tracePath}` };
  if (askers < askersMax) return undefined;
  return { status: 429, code: "TooManyRequests", message: `${askersMax} are served already: end one of them, or ask again later` };
}

function refuse(response: ServerResponse, { status, code, message }: Refusal): void {
  response.writeHead(status, { "content-type": "application/json", connection: "close" });
  response.end(JSON.stringify({ code, message }));
}

function tell(response: ServerResponse, { pod, traces, originMs }: TraceServerOptions): void {
  let steps = 0;
  const unwatch = traces.watch((line) => {
    if (response.writableLength > backlogBytesMax) return void response.destroy();
    response.write(line);
    steps += 1;
    if (steps === tracedStepsMax) end();
  });
  const end = (): void => {
    unwatch();
    response.end();
  };
  const bound = setTimeout(end, askedMsMax);
  bound.unref();
  response.once("close", () => {
    clearTimeout(bound);
    unwatch();
  });
  response.writeHead(200, { "content-type": "application/x-ndjson", connection: "close" });
  response.write(`${JSON.stringify({ pod, originMs: originMs() })}\n`);
}

/** The traces of a training pod's steps for watchers; without watchers they are dropped. */
export class StepTraces {
  readonly #watchers = new Set<(line: string) => void>();
  #world: Pick<TracedStep, "epoch" | "group"> = { epoch: 0, group: 0 };

  begins(epoch: number, group: number): void {
    this.#world = { epoch, group };
  }

  ended(step: number, spans: readonly Span[]): void {
    if (this.#watchers.size === 0) return;
    const cut = spans.length >= stepSpansMax && { cut: true as const };
    const traced: TracedStep = { ...this.#world, step, spans: spans.map(inMicroseconds), ...cut };
    const line = `${JSON.stringify(traced)}\n`;
    for (const watcher of [...this.#watchers]) watcher(line);
  }

  /** Reports each step from now on as a line, until the returned function is called. */
  watch(watcher: (line: string) => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }
}

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;
const inMicroseconds = (span: Span): Span => Object.assign({}, span, { fromMs: rounded(span.fromMs), toMs: rounded(span.toMs) });
