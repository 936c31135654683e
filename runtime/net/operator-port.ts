// A bounded HTTPS port on which only the operator is accepted, by mutual TLS.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { TLSSocket } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { type RefusalLog, refusalReport } from "./connections.ts";
import { createTlsListener } from "./listener.ts";
import { peerIdentity, type TlsSource } from "./tls.ts";

const requestMsMax = 5_000;
const connectionsMax = 16;
/** HTTPS clients offer it by ALPN. */
const httpAlpn = "http/1.1";

export interface OperatorPortOptions {
  /** Errors show it: "world port 9443". */
  readonly name: string;
  readonly namespace: string;
  readonly scope: string;
  readonly tls: Pick<TlsSource, "current">;
  readonly host: string;
  readonly port: number;
  readonly log: RefusalLog;
  answer(request: IncomingMessage, response: ServerResponse): void;
}

export interface OperatorPort {
  readonly port: number;
  close(): Promise<void>;
}

/** Throws AppError `MessageTooLarge`. */
export async function bodyOf(request: IncomingMessage, bytesMax: number): Promise<string> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Uint8Array>) {
    bytes += piece.byteLength;
    if (bytes > bytesMax) throw new AppError(`a body has at most ${bytesMax} bytes`, { code: "MessageTooLarge" });
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

/** Throws AppError `ListenFailed`. */
export async function listenForOperator(options: OperatorPortOptions): Promise<OperatorPort> {
  const { name, namespace, scope, tls, host } = options;
  const server = createServer({ headersTimeout: requestMsMax, requestTimeout: requestMsMax }, options.answer);
  server.timeout = requestMsMax;
  let open = 0;
  const accept = (socket: TLSSocket): void => {
    const identity = peerIdentity(socket.getPeerCertificate(), namespace, scope);
    if (identity?.role !== "operator" || open >= connectionsMax) return void socket.destroy();
    open += 1;
    socket.once("close", () => {
      open -= 1;
    });
    server.emit("connection", socket);
  };
  const listener = createTlsListener(tls, { [httpAlpn]: accept }, refusalReport(name, options));
  const port = await listener.listen(host, options.port).catch((cause: Error) => {
    throw new AppError(`${name} port ${options.port}: ${cause.message}`, { code: "ListenFailed", cause, retry: "backoff" });
  });
  return {
    port,
    close: async () => {
      server.close();
      listener.cut();
      await listener.stop();
    },
  };
}
