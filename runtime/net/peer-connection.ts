// One connection of the framed protocol, at either end: TLS, hello and welcome, heartbeats, and an end with a reason.
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import type { FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import { FrameSocket, unsentBytesMax } from "./frame-socket.ts";
import { EndSchema, type Hello, HelloSchema, type Welcome, WelcomeSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import type { TlsSource } from "./tls.ts";

export const peerAlpn = "enodia/1";
export const none = new Uint8Array(0);
const messageCharsMax = 1_024;

export interface PeerTarget {
  /** ip:port */
  readonly address: string;
  /** The SAN that the peer must present. */
  readonly serverName: string;
  readonly tls: Pick<TlsSource, "current">;
}

export interface EndReason {
  /** The code of an AppError. */
  readonly code: string;
  readonly message: string;
}

interface ConnectionEvents {
  /** May throw: the connection then ends with that error. */
  frame(frame: RawFrame): void;
  /** The peer leaves for a reason. May throw. */
  ended(reason: EndReason): void;
  /** Not called after `end` or `destroy`. */
  gone(reason: AppError | undefined): void;
  drain?(): void;
  /** See FrameEvents. */
  readonly atOnce?: boolean;
  readonly bytesMax?: number;
}

export interface CallerEvents extends ConnectionEvents {
  /** TLS is established and the hello is sent. */
  connected?(): void;
  welcome?(welcome: Welcome): void;
  /** The answer to a ping, with what the host says anew. */
  pong?(welcome: Welcome): void;
}

export interface HostEvents extends ConnectionEvents {
  /** May throw. */
  hello(hello: Hello): WelcomeInit | AppError;
  /** Goes with the answer to a ping. */
  pong?(): WelcomeInit;
}

type WelcomeInit = MessageInitShape<typeof WelcomeSchema>;
export type HelloInit = MessageInitShape<typeof HelloSchema>;

export class PeerConnection {
  readonly detector: FailureDetector;
  readonly #socket: TLSSocket;
  readonly #frames: FrameSocket;

  /** Throws for an invalid address. */
  static call(target: PeerTarget, hello: HelloInit, detector: FailureDetector, events: CallerEvents): PeerConnection {
    const socket = openSocket(target);
    const connection: PeerConnection = new PeerConnection(socket, detector, events, ({ kind, head }) => {
      if (kind === frameKinds.welcome) events.welcome?.(fromBinary(WelcomeSchema, head));
      if (kind === frameKinds.ping) events.pong?.(fromBinary(WelcomeSchema, head));
      return kind === frameKinds.welcome || kind === frameKinds.ping;
    });
    socket.once("secureConnect", () => {
      if (socket.alpnProtocol === peerAlpn) {
        connection.write(frameKinds.hello, encodeHello(hello));
        events.connected?.();
        return;
      }
      connection.destroy();
      events.gone(new AppError(`the other end does not speak ${peerAlpn}`, { code: "Unavailable", retry: "backoff" }));
    });
    return connection;
  }

  static answer(socket: TLSSocket, detector: FailureDetector, events: HostEvents): PeerConnection {
    let isGreeted = false;
    const connection: PeerConnection = new PeerConnection(socket, detector, events, ({ kind, head }) => {
      if (isGreeted) {
        // A caller that does not read gets no answers.
        if (kind === frameKinds.ping && !connection.isFull) connection.write(kind, encodeWelcome(events.pong?.() ?? {}));
        return kind === frameKinds.ping;
      }
      if (kind !== frameKinds.hello) throw new AppError("a connection that begins without a hello", { code: "InvalidFrame" });
      const answer = events.hello(decodeHello(head));
      isGreeted = true;
      if (answer instanceof AppError) connection.end(answer);
      else connection.write(frameKinds.welcome, encodeWelcome(answer));
      return true;
    });
    return connection;
  }

  private constructor(socket: TLSSocket, detector: FailureDetector, events: ConnectionEvents, own: (frame: RawFrame) => boolean) {
    this.detector = detector;
    this.#socket = socket;
    this.#frames = new FrameSocket(socket, {
      atOnce: events.atOnce ?? false,
      ...(events.bytesMax === undefined ? {} : { bytesMax: events.bytesMax }),
      frame: (frame) => {
        detector.heard();
        if (own(frame)) return;
        if (frame.kind === frameKinds.end) events.ended(decodeEnd(frame.head));
        else events.frame(frame);
      },
      gone: (reason) => events.gone(reason),
      drain: () => events.drain?.(),
    });
  }

  /** Bytes that come show life before their frame is whole. */
  get receivedBytes(): number {
    return this.#socket.bytesRead;
  }
  get isFull(): boolean {
    return this.#socket.writableNeedDrain;
  }

  /** See FrameSocket.write. */
  write(kind: RawFrame["kind"], head: Uint8Array, body: Uint8Array = none, sent?: () => void): boolean {
    return this.#frames.write({ kind, head, body }, sent);
  }
  ping(): void {
    this.write(frameKinds.ping, none);
  }

  end({ code, message }: EndReason): void {
    this.#frames.leave({ kind: frameKinds.end, head: encodeEnd({ code, message }), body: none });
  }
  destroy(): void {
    this.#frames.destroy();
  }

  /** Stops reading until `resume`. */
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }
}

function openSocket({ address, serverName, tls }: PeerTarget): TLSSocket {
  const { cert, key, ca } = tls.current();
  const colon = address.lastIndexOf(":");
  const options: ConnectionOptions & { readonly highWaterMark: number } = {
    host: address.slice(0, colon).replace(/^\[(.*)\]$/, "$1"),
    port: Number(address.slice(colon + 1)),
    cert,
    key,
    ca,
    servername: serverName,
    ALPNProtocols: [peerAlpn],
    highWaterMark: unsentBytesMax,
  };
  return connectTls(options);
}

const encodeWelcome = (welcome: WelcomeInit): Uint8Array => toBinary(WelcomeSchema, create(WelcomeSchema, welcome));
export const encodeHello = (hello: HelloInit): Uint8Array => toBinary(HelloSchema, create(HelloSchema, hello));
/** Throws `InvalidFrame`. */
export function decodeHello(head: Uint8Array): Hello {
  try {
    return fromBinary(HelloSchema, head);
  } catch (cause) {
    throw new AppError("a hello that is none", { code: "InvalidFrame", cause });
  }
}

/** Truncates a message that is too long. */
export const encodeEnd = ({ code, message }: EndReason): Uint8Array =>
  toBinary(EndSchema, create(EndSchema, { code, message: message.slice(0, messageCharsMax) }));

/** Throws `InvalidFrame` for an unknown reason. */
export function decodeEnd(head: Uint8Array): EndReason {
  try {
    const { code, message } = fromBinary(EndSchema, head);
    if (/^[A-Za-z0-9]{1,64}$/.test(code)) return { code, message: message.slice(0, messageCharsMax) };
  } catch {
    // an invalid code
  }
  throw new AppError("an end without a code of letters and digits, up to 64", { code: "InvalidFrame" });
}
