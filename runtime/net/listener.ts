// The TLS listener of a process: one port, protocols by ALPN, client certificates of the deployment's CA.
import type { AddressInfo, Socket } from "node:net";
import { createServer as createListener, type TLSSocket } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { Connections, type RefusalReport } from "./connections.ts";
import type { TlsMaterial, TlsSource } from "./tls.ts";

/** Four of each of 1,024 ranks; of one address so many before their handshake. */
const bounds = { total: 4_096, perAddress: 256 };

export interface Listener {
  /** Binds host:port (0 = any) and returns the port. */
  listen(host: string, port: number): Promise<number>;
  stop(): Promise<void>;
  /** Ends all connections, also during a handshake. */
  cut(): void;
}

export function createTlsListener(
  tls: Pick<TlsSource, "current">,
  speakers: Readonly<Record<string, (socket: TLSSocket) => void>>,
  report?: RefusalReport,
): Listener {
  let used: TlsMaterial | undefined;
  const protocols = Object.keys(speakers);
  const settings = { requestCert: true, rejectUnauthorized: true, ALPNProtocols: protocols };
  const listener = createListener(settings, (socket) => {
    socket.on("error", () => {}); // users watch `close` or have their own handler
    socket.disableRenegotiation(); // as in HTTP/2: a caller is identified once
    connections.use(socket);
    const speaker = speakers[socket.alpnProtocol || ""];
    if (speaker) speaker(socket);
    else socket.destroy();
  });
  listener.prependListener("connection", (socket: Socket) => {
    try {
      const material = tls.current();
      if (material !== used) listener.setSecureContext({ cert: material.cert, key: material.key, ca: material.ca });
      used = material;
    } catch {
      socket.destroy(); // a certificate without its key; newer material may be valid
    }
  });
  const connections = new Connections(listener, bounds, report);
  return {
    listen: (host, port) =>
      new Promise((resolve, reject) => {
        const stopped = () => reject(new AppError("it was stopped before it listened", { code: "Cancelled", operation: "listening" }));
        listener.once("error", reject).once("close", stopped);
        listener.listen(port, host, () => {
          listener.off("error", reject).off("close", stopped);
          resolve((listener.address() as AddressInfo).port);
        });
      }),
    stop: () => new Promise((resolve) => listener.close(() => resolve())),
    cut: () => connections.cut(),
  };
}
