// Dispatch streams from other ranks: the caller, frames in, replies out, and the end of callers that are no longer accepted.
import { EventEmitter } from "node:events";
import type { PeerCertificate, TLSSocket } from "node:tls";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { computingLimits, FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import {
  Channel,
  type DispatchFrame,
  DispatchFrameSchema,
  type DispatchReply,
  DispatchReplySchema,
} from "./gen/enodia/runtime/v1/runtime_pb.js";
import { none, PeerConnection } from "./peer-connection.ts";

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

export class DispatchStreams {
  readonly #handler: DispatchHandler;
  readonly #open = new Set<Served>();
  readonly #timer: NodeJS.Timeout;
  #onEmpty = () => {};

  constructor(handler: DispatchHandler) {
    this.#handler = handler;
    this.#timer = setInterval(() => this.#look(), computingLimits.lookMs);
    this.#timer.unref();
  }

  accept(socket: TLSSocket): void {
    const served: Served = new Served(socket, () => {
      this.#open.delete(served);
      if (this.#open.size === 0) this.#onEmpty();
    });
    this.#open.add(served);
    this.#handler(served);
  }

  async close(graceMs: number): Promise<void> {
    if (this.#open.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs);
        this.#onEmpty = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    clearInterval(this.#timer);
    for (const served of this.#open) served.cut();
  }

  #look(): void {
    const now = performance.now();
    for (const served of this.#open) served.look(now);
  }
}

class Served extends EventEmitter<{ data: [DispatchFrame]; error: [Error] }> implements DispatchServed {
  readonly #connection: PeerConnection;
  readonly #certificate: PeerCertificate;
  readonly #detector = new FailureDetector(computingLimits, performance.now());
  #over = false;

  constructor(socket: TLSSocket, onClosed: () => void) {
    super();
    this.#certificate = socket.getPeerCertificate();
    this.#connection = PeerConnection.answer(socket, this.#detector, {
      hello: ({ channel }) => (channel === Channel.DISPATCH ? {} : new AppError(`no channel ${channel} here`, { code: "InvalidRequest" })),
      frame: (frame) => this.#take(frame),
      ended: ({ message }) => this.#gone(new AppError(message, { code: "Unavailable" })),
      gone: (reason) => this.#gone(reason),
    });
    socket.once("close", onClosed);
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
        this.#detector.heard();
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

  cut(): void {
    this.#over = true;
    this.#connection.destroy();
  }

  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    if (!this.#detector.hasFailed || this.#over) return;
    this.cut();
    this.#say(new AppError(`the caller said nothing for ${Math.round(silentMs)} ms`, { code: "Silent" }));
  }

  #take({ kind, head, body }: RawFrame): void {
    if (kind !== frameKinds.rows) throw new AppError(`a frame of kind ${kind} where rows are due`, { code: "InvalidFrame" });
    const frame = fromBinary(DispatchFrameSchema, head);
    frame.rows = body;
    this.emit("data", frame);
  }

  #gone(reason: AppError | undefined): void {
    this.#over = true;
    if (reason) this.#say(reason);
  }

  /** A handler that has refused the stream no longer listens. */
  #say(reason: AppError): void {
    if (this.listenerCount("error") > 0) this.emit("error", reason);
  }
}
