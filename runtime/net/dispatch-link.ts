// One rank's connection to another rank's experts, one stream per connection. A pending connection outlives a stream that gave up.
import { EventEmitter } from "node:events";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { FailureDetector, peerLimits } from "./failure-detector.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import {
  Channel,
  type DispatchFrame,
  DispatchFrameSchema,
  type DispatchReply,
  DispatchReplySchema,
} from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, toSender } from "./mapping.ts";
import { none, PeerConnection, type PeerTarget } from "./peer-connection.ts";
import type { TlsSource } from "./tls.ts";

export interface DispatchTarget extends PeerTarget {
  readonly tls: TlsSource;
  readonly self: Identity;
}

/** `end`: the host left without a reason. No event follows `cancel`. */
export interface DispatchCall extends EventEmitter<{ data: [DispatchReply]; error: [Error]; end: []; drain: [] }> {
  /** False: sent, but wait for `drain`. Rows are not copied. */
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

  /** Existing streams continue; no new ones begin. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#connections) if (!connection.ready || connection.call === undefined) connection.abandon();
  }

  #connect(): Connection {
    if (this.#closed) throw new AppError("the link is closed", { code: "Cancelled" });
    const connection: Connection = new Connection(this.#target, () => {
      this.#connections.delete(connection);
      if (this.#spare === connection) this.#spare = undefined;
    });
    this.#connections.add(connection);
    return connection;
  }

  /** Only an unused connection is reused: late answers would go to the next stream. */
  #left(connection: Connection): void {
    if (connection.ready || this.#spare !== undefined || this.#closed) connection.abandon();
    else this.#spare = connection;
  }
}

class Connection {
  readonly #connection: PeerConnection;
  readonly #onGone: () => void;
  call: Call | undefined;
  ready = false;

  constructor(target: DispatchTarget, onGone: () => void) {
    this.#onGone = onGone;
    const hello = { sender: toSender(target.self), channel: Channel.DISPATCH };
    // The stream's user judges silence: the detector outlives connections (experts/dispatch/peer-stream.ts).
    this.#connection = PeerConnection.call(target, hello, new FailureDetector(peerLimits, performance.now()), {
      connected: () => {
        this.ready = true;
        this.call?.connected();
      },
      frame: (frame) => this.call?.take(frame),
      ended: ({ code, message }) => {
        throw new AppError(message, { code, operation: "dispatching", retry: "backoff" });
      },
      gone: (reason) => this.#gone(reason),
      drain: () => this.call?.drained(),
    });
  }

  /** Rows follow their message, so that neither end copies them. */
  send(frame: DispatchFrame): boolean {
    const { rows } = frame;
    try {
      frame.rows = none; // restored below, to avoid a copy of the message
      const head = toBinary(DispatchFrameSchema, frame);
      return this.#connection.write(frameKinds.rows, head, rows);
    } catch (caught) {
      this.#connection.destroy();
      process.nextTick(() => this.#gone(AppError.from(caught, "writing a frame")));
      return true;
    } finally {
      frame.rows = rows;
    }
  }

  abandon(): void {
    this.#connection.destroy();
    this.#gone(new AppError("the link was closed", { code: "Cancelled" }));
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
  /** Bounded by the user. */
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
