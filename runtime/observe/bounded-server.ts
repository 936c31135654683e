// An HTTP server for short answers that stays reachable despite idle, slow or many clients.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { AppError } from "../../crds/common.ts";

/** Counts from the connection's start or last answer. */
const requestTimeoutMs = 2_000;
/** Applies between requests, and to clients that do not read their answer. */
const idleTimeoutMs = 5_000;
const checkMs = 500;
const connectionsMax = 64;
/** A kubelet has two probes, a pair of Prometheus servers behind one address two scrapes. */
const connectionsPerAddressMax = 8;

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
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
}

export async function listenBounded({ name, port, host, handle }: BoundedServerOptions): Promise<BoundedServer> {
  const connections = new Connections();
  const server = createServer(
    {
      headersTimeout: requestTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: requestTimeoutMs,
      connectionsCheckingInterval: checkMs,
    },
    (request, response) => {
      connections.answering(request.socket, response);
      handle(request, response);
    },
  );
  server.timeout = idleTimeoutMs;
  server.on("connection", (socket) => connections.admit(socket));
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

/** Open connections by address, oldest first. */
class Connections {
  readonly #byAddress = new Map<string, Set<Socket>>();
  readonly #busy = new Set<Socket>();
  #open = 0;

  admit(socket: Socket): void {
    const address = socket.remoteAddress;
    if (address === undefined) return void socket.destroy(); // already closed
    const same = this.#byAddress.get(address) ?? new Set();
    this.#byAddress.set(address, same.add(socket));
    this.#open += 1;
    socket.once("close", () => this.#leave(address, socket));
    if (same.size > connectionsPerAddressMax) this.#closeOne(address, socket);
    else if (this.#open > connectionsMax) this.#closeOne(this.#mostConnected(), socket);
  }

  answering(socket: Socket, response: ServerResponse): void {
    this.#busy.add(socket);
    response.once("close", () => this.#busy.delete(socket));
  }

  /** Evicting there hurts least. */
  #mostConnected(): string {
    let most = ["", 0] as readonly [address: string, connections: number];
    for (const [address, { size }] of this.#byAddress) if (size > most[1]) most = [address, size];
    return most[0];
  }

  #closeOne(address: string, newest: Socket): void {
    const others = [...(this.#byAddress.get(address) ?? [])].filter((socket) => socket !== newest);
    const victim = others.find((socket) => !this.#busy.has(socket)) ?? others[0] ?? newest;
    this.#leave(address, victim);
    victim.destroy();
  }

  #leave(address: string, socket: Socket): void {
    const same = this.#byAddress.get(address);
    if (!same?.delete(socket)) return;
    this.#open -= 1;
    this.#busy.delete(socket);
    if (same.size === 0) this.#byAddress.delete(address);
  }
}
