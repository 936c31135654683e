// The port on which a training pod is told its world and says how it stands: HTTPS with certificates of the job's CA on both sides. Only
// the operator is heard; what it says is read within a limit of bytes and of time.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { AppError } from "../../crds/common.ts";
import { type PodWords, type WorldOrder, worldBytesMax, worldOrderSchema, worldPath } from "../../crds/training-world.ts";
import { createTlsListener } from "../wire/listener.ts";
import { peerIdentity, type TlsSource } from "../wire/tls.ts";

/** A request is here this long after its connection, and a connection without traffic is closed after as long. */
const requestMsMax = 5_000;
const connectionsMax = 16;
/** As HTTPS clients offer it by ALPN. */
const httpAlpn = "http/1.1";

export interface WorldServerOptions {
  /** Of the certificates. */
  readonly namespace: string;
  readonly scope: string;
  readonly tls: Pick<TlsSource, "current">;
  readonly host: string;
  readonly port: number;
  /** Takes an order and answers; what it throws is refused with its code. */
  take(order: WorldOrder): PodWords;
}

export interface WorldServer {
  readonly port: number;
  close(): Promise<void>;
}

export async function listenForWorlds(options: WorldServerOptions): Promise<WorldServer> {
  const server = createServer({ headersTimeout: requestMsMax, requestTimeout: requestMsMax }, (request, response) => {
    void answer(request, response, options);
  });
  server.timeout = requestMsMax;
  let open = 0;
  const listener = createTlsListener(options.tls, {
    [httpAlpn]: (socket) => {
      const { namespace, scope } = options;
      const identity = peerIdentity(socket.getPeerCertificate(), namespace, scope);
      if (identity?.role !== "operator" || open >= connectionsMax) return void socket.destroy();
      open += 1;
      socket.once("close", () => {
        open -= 1;
      });
      server.emit("connection", socket);
    },
  });
  const port = await listener.listen(options.host, options.port).catch((cause: Error) => {
    throw new AppError(`world port ${options.port}: ${cause.message}`, { code: "ListenFailed", cause, retry: "backoff" });
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

async function answer(request: IncomingMessage, response: ServerResponse, options: WorldServerOptions): Promise<void> {
  try {
    if (request.url !== worldPath || request.method !== "POST")
      throw new AppError(`not found; here is POST ${worldPath}`, { code: "NotFound" });
    const parsed = worldOrderSchema.safeParse(JSON.parse(await bodyOf(request)));
    if (!parsed.success) throw new AppError(parsed.error.message, { code: "InvalidWorld" });
    reply(response, 200, options.take(parsed.data));
  } catch (caught) {
    const { code, message } = AppError.from(caught);
    reply(response, code === "NotFound" ? 404 : 409, { code, message });
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Uint8Array>) {
    bytes += piece.byteLength;
    if (bytes > worldBytesMax) throw new AppError(`an order has at most ${worldBytesMax} bytes`, { code: "MessageTooLarge" });
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

function reply(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent || response.destroyed) return;
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}
