// Clients that connect and say nothing: each opens its connection again when the other side closes it.
import { connect, type Socket } from "node:net";

export interface HeldSockets {
  /** Connections that are open now. */
  open(): number;
  close(): void;
}

export interface HoldOptions {
  readonly count: number;
  /** A closed connection is opened again after this: a server that closes at once is not asked in a busy loop. */
  readonly reopenMs: number;
}

export function holdSockets(host: string, port: number, { count, reopenMs }: HoldOptions): HeldSockets {
  const sockets = new Set<Socket>();
  const timers = new Set<NodeJS.Timeout>();
  let closed = false;
  const hold = (): void => {
    const socket = connect({ host, port });
    sockets.add(socket);
    socket.on("error", () => {}); // refused and reset connections are what the server is there to give
    socket.resume();
    socket.once("close", () => {
      sockets.delete(socket);
      if (closed) return;
      const timer = setTimeout(() => {
        timers.delete(timer);
        hold();
      }, reopenMs);
      timers.add(timer);
    });
  };
  for (let i = 0; i < count; i++) hold();
  return {
    open: () => [...sockets].filter((socket) => socket.readyState === "open").length,
    close: () => {
      closed = true;
      for (const timer of timers) clearTimeout(timer);
      for (const socket of sockets) socket.destroy();
    },
  };
}
