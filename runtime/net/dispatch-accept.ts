// The streams of dispatch frames that other ranks have opened to this one: who the caller is, frames in, replies out, and an end for
// callers that are no more. A stream is served by one handler (experts/dispatch/server.ts); the listener is listener.ts.
import { EventEmitter } from "node:events";
import type { PeerCertificate, TLSSocket } from "node:tls";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import { FrameSocket } from "./frame-socket.ts";
import {
  DispatchEndSchema,
  type DispatchFrame,
  DispatchFrameSchema,
  type DispatchReply,
  DispatchReplySchema,
} from "./gen/enodia/runtime/v1/runtime_pb.js";
import { Silence } from "./silence.ts";

/** A caller asks at least every 750 ms whether this end lives, unless it hears from it; one that neither speaks nor takes what is said
 *  for so long is gone. */
const callerSilenceMs = 8_000;
const lookEveryMs = 1_000;
/** Of the words with which a stream ends. */
const reasonCharsMax = 1_024;
const none = new Uint8Array(0);
const noRows = { case: "rows", value: none } as const;

/** A stream as its server has it. `error`: it broke, or what came is no frame. */
export interface DispatchServed extends EventEmitter<{ data: [DispatchFrame]; error: [Error] }> {
  getAuthContext(): { readonly sslPeerCertificate?: PeerCertificate };
  /** Nothing that is written now reaches the caller. */
  readonly over: boolean;
  /** `sent` is called when the reply has left this end; its rows are not copied and stay as they are until then. */
  write(reply: DispatchReply, sent: () => void): void;
  /** Tells the caller why, and ends the stream. */
  fail(error: AppError): void;
}

export type DispatchHandler = (call: DispatchServed) => void;

/** All streams of a server. */
export class DispatchStreams {
  readonly #handler: DispatchHandler;
  readonly #open = new Set<Served>();
  readonly #timer: NodeJS.Timeout;
  #onEmpty = () => {};

  constructor(handler: DispatchHandler) {
    this.#handler = handler;
    this.#timer = setInterval(() => this.#look(), lookEveryMs);
    this.#timer.unref();
  }

  /** Serves a connection whose handshake is done. */
  accept(socket: TLSSocket): void {
    const served: Served = new Served(socket, () => {
      this.#open.delete(served);
      if (this.#open.size === 0) this.#onEmpty();
    });
    this.#open.add(served);
    this.#handler(served);
  }

  /** Waits up to graceMs for the streams to end, then cuts them. */
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
  readonly #frames: FrameSocket;
  readonly #certificate: PeerCertificate;
  readonly #silence = new Silence(lookEveryMs, performance.now());
  #over = false;

  constructor(socket: TLSSocket, onClosed: () => void) {
    super();
    this.#certificate = socket.getPeerCertificate();
    this.#frames = new FrameSocket(socket, { frame: (frame) => this.#take(frame), gone: (reason) => this.#gone(reason) });
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
        this.#silence.heard();
        sent();
      };
      this.#frames.write({ kind: frameKinds.reply, head: toBinary(DispatchReplySchema, words), body }, left);
    } catch (caught) {
      sent();
      this.fail(AppError.from(caught, "writing a reply"));
    }
  }

  fail({ code, message }: AppError): void {
    if (this.#over) return;
    this.#over = true;
    const words = create(DispatchEndSchema, { code, message: message.slice(0, reasonCharsMax) });
    this.#frames.leave({ kind: frameKinds.end, head: toBinary(DispatchEndSchema, words), body: none });
  }

  cut(): void {
    this.#over = true;
    this.#frames.destroy();
  }

  look(nowMs: number): void {
    const silentMs = this.#silence.look(nowMs);
    if (silentMs < callerSilenceMs || this.#over) return;
    this.cut();
    this.#say(new AppError(`the caller said nothing for ${Math.round(silentMs)} ms`, { code: "Silent" }));
  }

  #take({ kind, head, body }: RawFrame): void {
    this.#silence.heard();
    if (kind !== frameKinds.frame) throw new AppError(`a frame of kind ${kind} where rows are due`, { code: "InvalidFrame" });
    const frame = fromBinary(DispatchFrameSchema, head);
    frame.rows = body;
    this.emit("data", frame);
  }

  #gone(reason: AppError | undefined): void {
    this.#over = true;
    if (reason) this.#say(reason);
  }

  /** A handler that has refused the stream listens no more. */
  #say(reason: AppError): void {
    if (this.listenerCount("error") > 0) this.emit("error", reason);
  }
}
