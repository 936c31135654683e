// The TLS listener of a process: one port, on which callers say by ALPN what they speak. Every caller shows a certificate that a CA of
// the deployment has signed; which member it is, is asked by those who serve it (tls.ts reads it).
import type { AddressInfo, Socket } from "node:net";
import { createServer as createListener, type TLSSocket } from "node:tls";
import type { TlsMaterial, TlsSource } from "./tls.ts";

/** A connection whose handshake takes longer is dropped. */
const handshakeMsMax = 20_000;

export interface Listener {
  /** Binds host:port (0 = any) and returns the port. */
  listen(host: string, port: number): Promise<number>;
  /** Resolves when all connections have ended. */
  stop(): Promise<void>;
  /** Ends all connections, those in the middle of a handshake too. */
  cut(): void;
}

/** By protocol. */
export function createTlsListener(
  tls: Pick<TlsSource, "current">,
  speakers: Readonly<Record<string, (socket: TLSSocket) => void>>,
): Listener {
  // A TLS server knows a connection once its handshake is done: one in the middle of it would hold a closing server open for as long
  // as the other end likes.
  const sockets = new Set<Socket>();
  let used: TlsMaterial | undefined;
  const protocols = Object.keys(speakers);
  const settings = { requestCert: true, rejectUnauthorized: true, ALPNProtocols: protocols, handshakeTimeout: handshakeMsMax };
  const listener = createListener(settings, (socket) => {
    socket.on("error", () => {}); // those who serve it hear of it by its close, or listen themselves
    socket.disableRenegotiation(); // as HTTP/2 does: who the caller is, is asked once
    const speaker = speakers[socket.alpnProtocol || ""];
    if (speaker) speaker(socket);
    else socket.destroy();
  });
  listener.prependListener("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    try {
      const material = tls.current();
      if (material !== used) listener.setSecureContext({ cert: material.cert, key: material.key, ca: material.ca });
      used = material;
    } catch {
      socket.destroy(); // a certificate and a key that are no pair: the next material may be one
    }
  });
  return {
    listen: (host, port) =>
      new Promise((resolve, reject) => {
        listener.once("error", reject);
        listener.listen(port, host, () => {
          listener.off("error", reject); // a later one, such as no descriptors left, is nobody's to go on from
          resolve((listener.address() as AddressInfo).port);
        });
      }),
    stop: () => new Promise((resolve) => listener.close(() => resolve())),
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}
