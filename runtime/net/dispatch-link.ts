// The way of one rank to another rank's experts: frames out and replies in on a TLS connection, with the certificates and the checks
// that gRPC has. A stream has a connection of its own; one that is still being made outlives a stream that could not wait for it.
// Not here: what a frame is for, and how long a silence may last (experts/dispatch).
import { EventEmitter } from "node:events";
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import { FrameSocket, framesAlpn, unsentBytesMax } from "./frame-socket.ts";
import {
  DispatchEndSchema,
  type DispatchFrame,
  DispatchFrameSchema,
  type DispatchReply,
  DispatchReplySchema,
} from "./gen/enodia/runtime/v1/runtime_pb.js";
import type { TlsSource } from "./tls.ts";

const none = new Uint8Array(0);

export interface FramesTarget {
  /** ip:port */
  readonly address: string;
  /** The SAN that the other end must present. */
  readonly serverName: string;
  readonly tls: Pick<TlsSource, "current">;
}
export interface DispatchTarget extends FramesTarget {
  readonly tls: TlsSource;
}

/** A stream as its opener has it. `end`: the other end left without a word; neither it nor `error` comes after `cancel`. */
export interface DispatchCall extends EventEmitter<{ data: [DispatchReply]; error: [Error]; end: []; drain: [] }> {
  /** False: it is sent, but a lot waits to leave; `drain` follows. Rows are not copied: whoever has them leaves them as they are. */
  write(frame: DispatchFrame): boolean;
  cancel(): void;
}

export interface DispatchLink {
  dispatch(): DispatchCall;
  close(): void;
}

export function connectDispatch(target: DispatchTarget): DispatchLink {
  return new Link(target);
}

class Link implements DispatchLink {
  readonly #target: DispatchTarget;
  readonly #connections = new Set<Connection>();
  /** One that no stream has. */
  #spare: Connection | undefined;
  #closed = false;

  constructor(target: DispatchTarget) {
    this.#target = target;
  }

  dispatch(): DispatchCall {
    const call = new Call((connection) => this.#left(connection));
    try {
      const connection = this.#spare ?? this.#connect();
      this.#spare = undefined;
      call.use(connection);
    } catch (caught) {
      process.nextTick(() => call.broke(AppError.from(caught, `connecting to ${this.#target.address}`)));
    }
    return call;
  }

  /** Streams that stand go on, as those of a gRPC channel do; there are no others any more. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#connections) if (!connection.ready || connection.call === undefined) connection.abandon();
  }

  #connect(): Connection {
    if (this.#closed) throw new AppError("the link is closed", { code: "Cancelled" });
    const connection: Connection = new Connection(openFrames(this.#target, framesAlpn), () => {
      this.#connections.delete(connection);
      if (this.#spare === connection) this.#spare = undefined;
    });
    this.#connections.add(connection);
    return connection;
  }

  /** A stream left. What it sent is on its way and would be answered to the next one, unless nothing was sent yet. */
  #left(connection: Connection): void {
    if (connection.ready || this.#spare !== undefined || this.#closed) connection.abandon();
    else this.#spare = connection;
  }
}

/** A TLS connection to ip:port whose other end shows that name; by `protocol` it says what it wants to speak. */
export function openFrames({ address, serverName, tls }: FramesTarget, protocol: string): TLSSocket {
  const { cert, key, ca } = tls.current();
  const colon = address.lastIndexOf(":");
  const options: ConnectionOptions & { readonly highWaterMark: number } = {
    host: address.slice(0, colon).replace(/^\[(.*)\]$/, "$1"),
    port: Number(address.slice(colon + 1)),
    cert,
    key,
    ca,
    servername: serverName,
    ALPNProtocols: [protocol],
    highWaterMark: unsentBytesMax,
  };
  return connectTls(options);
}

/** A connection that is being made, or stands. */
class Connection {
  readonly #frames: FrameSocket;
  readonly #socket: TLSSocket;
  readonly #onGone: () => void;
  call: Call | undefined;
  ready = false;

  constructor(socket: TLSSocket, onGone: () => void) {
    this.#socket = socket;
    this.#onGone = onGone;
    socket.once("secureConnect", () => this.#connected());
    this.#frames = new FrameSocket(socket, {
      frame: (frame) => this.call?.take(frame),
      gone: (reason) => this.#gone(reason),
      drain: () => this.call?.drained(),
    });
  }

  /** The rows follow the message that says what they are, so that neither end copies them into it or out of it. */
  send(frame: DispatchFrame): boolean {
    const { rows } = frame;
    try {
      frame.rows = none; // put back below: a copy of the message would cost as much as its bytes
      const head = toBinary(DispatchFrameSchema, frame);
      return this.#frames.write({ kind: frameKinds.frame, head, body: rows });
    } catch (caught) {
      this.#frames.destroy();
      process.nextTick(() => this.#gone(AppError.from(caught, "writing a frame")));
      return true;
    } finally {
      frame.rows = rows;
    }
  }

  abandon(): void {
    this.#frames.destroy();
    this.#gone(new AppError("the link was closed", { code: "Cancelled" }));
  }

  #connected(): void {
    if (this.#socket.alpnProtocol === framesAlpn) {
      this.ready = true;
      this.call?.connected();
    } else {
      this.#frames.destroy();
      this.#gone(new AppError("the other end takes no dispatch frames", { code: "Unavailable", retry: "backoff" }));
    }
  }
  #gone(reason: AppError | undefined): void {
    const { call } = this;
    this.call = undefined;
    this.#onGone();
    if (reason) call?.broke(reason);
    else call?.ended();
  }
}

class Call extends EventEmitter<{ data: [DispatchReply]; error: [Error]; end: []; drain: [] }> implements DispatchCall {
  readonly #onLeft: (connection: Connection) => void;
  #connection: Connection | undefined;
  /** Frames that wait for the connection to be made; its user bounds them. */
  #waiting: DispatchFrame[] = [];

  constructor(onLeft: (connection: Connection) => void) {
    super();
    this.#onLeft = onLeft;
  }

  use(connection: Connection): void {
    this.#connection = connection;
    connection.call = this;
  }
  connected(): void {
    this.#flush();
  }
  drained(): void {
    this.#flush();
    if (this.#waiting.length === 0) this.emit("drain");
  }

  write(frame: DispatchFrame): boolean {
    const connection = this.#connection;
    if (connection?.ready && this.#waiting.length === 0) return connection.send(frame);
    if (connection) this.#waiting.push(frame);
    return !connection?.ready;
  }
  /** Until the socket has enough; the rest follows when it has drained. */
  #flush(): void {
    while (this.#connection?.ready) {
      const frame = this.#waiting.shift();
      if (frame === undefined || !this.#connection.send(frame)) return;
    }
  }
  cancel(): void {
    const connection = this.#detach();
    if (!connection) return;
    connection.call = undefined;
    this.#onLeft(connection);
  }

  take({ kind, head, body }: RawFrame): void {
    if (kind === frameKinds.end) {
      const { code, message } = fromBinary(DispatchEndSchema, head);
      throw new AppError(message, { code, operation: "dispatching", retry: "backoff" });
    }
    if (kind !== frameKinds.reply) throw new AppError(`a frame of kind ${kind} where a reply is due`, { code: "InvalidFrame" });
    const reply = fromBinary(DispatchReplySchema, head);
    if (reply.result.case === "rows") reply.result.value = body;
    this.emit("data", reply);
  }
  broke(reason: AppError): void {
    this.#detach();
    this.emit("error", reason);
  }
  ended(): void {
    this.#detach();
    this.emit("end");
  }

  #detach(): Connection | undefined {
    const connection = this.#connection;
    this.#connection = undefined;
    this.#waiting = [];
    return connection;
  }
}
