// Dispatch streams from other ranks: the caller, frames in, replies out, and the end of callers that are no longer accepted.
import { EventEmitter } from "node:events";
import type { PeerCertificate } from "node:tls";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import { type DispatchFrame, DispatchFrameSchema, type DispatchReply, DispatchReplySchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type EndReason, none, type PeerConnection } from "./peer-connection.ts";
import type { Accepted, ChannelServer } from "./peer-server.ts";

const noRows = { case: "rows", value: none } as const;

/** `error`: a broken stream or an invalid frame. */
export interface DispatchServed extends EventEmitter<{ data: [DispatchFrame]; error: [Error] }> {
  getAuthContext(): { readonly sslPeerCertificate?: PeerCertificate };
  /** Nothing written now reaches the caller. */
  readonly over: boolean;
  /** The rows must not change before `sent` is called. */
  write(reply: DispatchReply, sent: () => void): void;
  fail(error: AppError): void;
}

export type DispatchHandler = (call: DispatchServed) => void;

export const serveDispatch =
  (handler: DispatchHandler): ChannelServer =>
  (accepted) => {
    const served = new Served(accepted);
    handler(served);
    return served;
  };

class Served extends EventEmitter<{ data: [DispatchFrame]; error: [Error] }> implements DispatchServed {
  readonly #connection: PeerConnection;
  readonly #certificate: PeerCertificate;
  #over = false;

  constructor({ connection, certificate }: Accepted) {
    super();
    this.#connection = connection;
    this.#certificate = certificate;
  }
  get over(): boolean {
    return this.#over;
  }
  getAuthContext() {
    return { sslPeerCertificate: this.#certificate };
  }

  write(reply: DispatchReply, sent: () => void): void {
    if (this.#over) return;
    const { result } = reply;
    const [body, words] = result.case === "rows" ? [result.value, { ...reply, result: noRows }] : [none, reply];
    try {
      const left = (): void => {
        this.#connection.detector.heard();
        sent();
      };
      this.#connection.write(frameKinds.reply, toBinary(DispatchReplySchema, words), body, left);
    } catch (caught) {
      sent();
      this.fail(AppError.from(caught, "writing a reply"));
    }
  }

  fail({ code, message }: AppError): void {
    if (this.#over) return;
    this.#over = true;
    this.#connection.end({ code, message });
  }

  frame({ kind, head, body }: RawFrame): void {
    if (kind !== frameKinds.rows) throw new AppError(`a frame of kind ${kind} where rows are due`, { code: "InvalidFrame" });
    const frame = fromBinary(DispatchFrameSchema, head);
    frame.rows = body;
    this.emit("data", frame);
  }

  ended({ message }: EndReason): void {
    this.gone(new AppError(message, { code: "Unavailable" }));
  }

  /** A handler that has refused the stream no longer listens. */
  gone(reason: AppError | undefined): void {
    this.#over = true;
    if (reason && this.listenerCount("error") > 0) this.emit("error", reason);
  }
}
