// An HTTP server for short answers that stays reachable despite idle, slow or many clients.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { AppError } from "../../crds/common.ts";
import { Connections, type RefusalReport } from "../net/connections.ts";

/** Counts from the connection's start or last answer. */
const requestTimeoutMs = 2_000;
/** Applies between requests, and to clients that do not read their answer. */
const idleTimeoutMs = 5_000;
const checkMs = 500;
/** A kubelet has two probes, a pair of Prometheus servers behind one address two scrapes; answers are short. */
const bounds = { total: 64, perAddress: 8, endsUsed: true };

export interface BoundedServer {
  readonly port: number;
  close(): Promise<void>;
}

export interface BoundedServerOptions {
  /** The port's name in errors. */
  readonly name: string;
  readonly port: number;
  /** Default: all addresses. */
  readonly host?: string;
  readonly report?: RefusalReport | undefined;
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
}

export async function listenBounded({ name, port, host, report, handle }: BoundedServerOptions): Promise<BoundedServer> {
  const server = createServer(
    {
      headersTimeout: requestTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: requestTimeoutMs,
      connectionsCheckingInterval: checkMs,
    },
    handle,
  );
  server.timeout = idleTimeoutMs;
  new Connections(server, bounds, report);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new AppError(`${name} port ${port}: ${cause.message}`, { code: "ListenFailed", cause })));
    server.listen(port, host ?? "0.0.0.0", resolve);
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
