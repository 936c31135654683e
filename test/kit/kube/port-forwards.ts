// The end of forwarded ports as an API server shows it: WebSockets by the protocol v4.channel.k8s.io, each to one port of this machine. A
// kubelet has it for real in test/e2e; here connections are refused, broken and counted.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";

const protocol = "v4.channel.k8s.io";
const handshakeKey = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const [data, problems] = [0, 1];
const [binary, closing] = [2, 8];
/** Of a frame, as a kubelet copies them. */
const pieceBytes = 32 * 1024;

export interface PortForwardsOptions {
  /** The port of this machine that a port of a pod is; undefined: the pod has nothing there. */
  readonly target: (path: string) => number | undefined;
  /** Of the handshake; 101 where it succeeds. */
  readonly status?: number;
}

export class PortForwards {
  readonly #server: Server;
  readonly #targets = new Set<Socket>();
  /** Those that were upgraded are no server's any more. */
  readonly #sockets = new Set<Duplex>();
  /** Paths that were asked for. */
  readonly asked: string[] = [];

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open({ target, status = 101 }: PortForwardsOptions): Promise<PortForwards> {
    const forwards = new PortForwards(createServer());
    forwards.#server.on("upgrade", (request: IncomingMessage, socket: Duplex) => {
      forwards.asked.push(request.url ?? "");
      forwards.#sockets.add(socket);
      socket.once("close", () => forwards.#sockets.delete(socket));
      if (status !== 101) return void socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
      const key = request.headers["sec-websocket-key"] ?? "";
      const accept = createHash("sha1").update(`${key}${handshakeKey}`).digest("base64");
      const head = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: Upgrade", `sec-websocket-accept: ${accept}`];
      socket.write(`${[...head, `sec-websocket-protocol: ${protocol}`].join("\r\n")}\r\n\r\n`);
      forwards.#forward(socket, request.url ?? "", target(request.url ?? ""));
    });
    await new Promise<void>((resolve) => forwards.#server.listen(0, "127.0.0.1", resolve));
    return forwards;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Connections to targets that are open. */
  get open(): number {
    return this.#targets.size;
  }

  async close(): Promise<void> {
    for (const one of [...this.#targets, ...this.#sockets]) one.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #forward(socket: Duplex, path: string, port: number | undefined): void {
    const asked = Number(new URLSearchParams(path.split("?")[1]).get("ports"));
    const number = Buffer.of(asked & 255, asked >> 8);
    for (const channel of [data, problems]) socket.write(frame(channel, number));
    const end = (): void => void socket.end(Buffer.of(0x80 | closing, 0));
    if (port === undefined) {
      socket.write(frame(problems, Buffer.from(`error forwarding port ${asked}: connect: connection refused`)));
      end();
      return;
    }
    const target = connect(port, "127.0.0.1");
    this.#targets.add(target);
    target.on("data", (piece) => {
      for (let from = 0; from < piece.length; from += pieceBytes)
        if (!socket.write(frame(data, piece.subarray(from, from + pieceBytes)))) target.pause();
    });
    socket.on("drain", () => target.resume());
    target.on("error", () => {});
    target.on("close", () => {
      this.#targets.delete(target);
      end();
    });
    socket.on("error", () => target.destroy());
    socket.on("close", () => target.destroy());
    const frames = reader((opcode, payload) => {
      if (opcode === closing) target.destroy();
      else if (payload[0] === data) target.write(payload.subarray(1));
    });
    socket.on("data", frames);
  }
}

function frame(channel: number, payload: Uint8Array): Buffer {
  const length = payload.length + 1;
  const head = Buffer.alloc(length < 126 ? 2 : 4);
  head[0] = 0x80 | binary;
  head[1] = Math.min(length, 126);
  if (length >= 126) head.writeUInt16BE(length, 2);
  return Buffer.concat([head, Buffer.of(channel), payload]);
}

/** Takes a client's bytes and gives its frames, which are masked. */
function reader(take: (opcode: number, payload: Buffer) => void): (piece: Buffer) => void {
  let rest = Buffer.alloc(0);
  return (piece) => {
    rest = Buffer.concat([rest, piece]);
    for (;;) {
      if (rest.length < 2) return;
      const short = (rest[1] as number) & 127;
      const from = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (rest.length < from + 4) return;
      const length = short < 126 ? short : short === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
      const end = from + 4 + length;
      if (rest.length < end) return;
      const mask = rest.subarray(from, from + 4);
      const payload = Buffer.from(rest.subarray(from + 4, end).map((byte, i) => byte ^ (mask[i % 4] as number)));
      take((rest[0] as number) & 15, payload);
      rest = rest.subarray(end);
    }
  };
}
