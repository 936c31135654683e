// The port on which a pod that downloads a model says how far it is: HTTPS with certificates of the deployment's CA on both sides, for the
// operator alone. It takes no body, so that a caller can hold nothing but a connection.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { AppError } from "../../crds/common.ts";
import { type DownloadWords, progressPath } from "../../crds/download.ts";
import { createTlsListener } from "../wire/listener.ts";
import { peerIdentity, type TlsSource } from "../wire/tls.ts";

/** A request is here this long after its connection, and a connection without traffic is closed after as long. */
const requestMsMax = 5_000;
const connectionsMax = 16;
/** As HTTPS clients offer it by ALPN. */
const httpAlpn = "http/1.1";

export interface ProgressServerOptions {
  /** Of the certificates. */
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: Pick<TlsSource, "current">;
  readonly host: string;
  readonly port: number;
  readonly words: () => DownloadWords;
}

export interface ProgressServer {
  readonly port: number;
  close(): Promise<void>;
}

export async function serveProgress(options: ProgressServerOptions): Promise<ProgressServer> {
  const server = createServer({ headersTimeout: requestMsMax, requestTimeout: requestMsMax }, (request, response) =>
    answer(request, response, options.words),
  );
  server.timeout = requestMsMax;
  let open = 0;
  const listener = createTlsListener(options.tls, {
    [httpAlpn]: (socket) => {
      const identity = peerIdentity(socket.getPeerCertificate(), options.namespace, options.deployment);
      if (identity?.role !== "operator" || open >= connectionsMax) return void socket.destroy();
      open += 1;
      socket.once("close", () => {
        open -= 1;
      });
      server.emit("connection", socket);
    },
  });
  const port = await listener.listen(options.host, options.port).catch((cause: Error) => {
    throw new AppError(`progress port ${options.port}: ${cause.message}`, { code: "ListenFailed", cause, retry: "backoff" });
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

function answer(request: IncomingMessage, response: ServerResponse, words: () => DownloadWords): void {
  const found = request.url === progressPath && request.method === "GET";
  response.writeHead(found ? 200 : 404, { "content-type": "application/json", connection: "close" });
  response.end(JSON.stringify(found ? words() : { message: `not found; here is GET ${progressPath}` }));
}
