// One end of a TLS connection that carries frames. It joins the writes of one tick, or sends each at once, and ends on invalid input.
import type { TLSSocket } from "node:tls";
import { AppError, messageOf } from "../../crds/common.ts";
import { encodeFrame, FrameReader, type RawFrame } from "./frame-codec.ts";

/** Above this, a writer waits for `drain`. */
export const unsentBytesMax = 1024 * 1024;
const goodbyeMs = 1_000;

export interface FrameEvents {
  /** May throw: the connection then ends with that error. */
  frame(frame: RawFrame): void;
  /** Undefined = the peer left. Not called after `leave` or `destroy`. */
  gone(reason: AppError | undefined): void;
  drain?(): void;
  /** DECISIONS.md 6. */
  readonly atOnce?: boolean;
  /** A longer frame that is received ends the connection. */
  readonly bytesMax?: number;
}

export class FrameSocket {
  readonly #socket: TLSSocket;
  readonly #events: FrameEvents;
  readonly #reader: FrameReader;
  #corked = false;
  #over = false;
  #error: Error | undefined;

  constructor(socket: TLSSocket, events: FrameEvents) {
    this.#socket = socket;
    this.#events = events;
    this.#reader = new FrameReader(events.bytesMax);
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("drain", () => this.#over || events.drain?.());
    socket.on("error", (error) => {
      this.#error = error;
    });
    socket.on("end", () => this.#ended());
    socket.on("close", () => this.#gone(this.#reason()));
  }

  /** False: wait for `drain`. `sent`: the frame has left. */
  write(frame: RawFrame, sent?: () => void): boolean {
    if (this.#over) return true;
    const [first, rows] = encodeFrame(frame);
    if (this.#events.atOnce) return this.#writeNow(first, rows, sent);
    this.#gather();
    if (rows === undefined) return this.#socket.write(first, sent);
    this.#socket.write(first);
    return this.#socket.write(rows, sent);
  }

  #writeNow(first: Uint8Array, rows: Uint8Array | undefined, sent: (() => void) | undefined): boolean {
    if (rows === undefined) return this.#socket.write(first, sent);
    this.#socket.cork();
    this.#socket.write(first);
    const isBelowLimit = this.#socket.write(rows, sent);
    this.#socket.uncork();
    return isBelowLimit;
  }

  #gather(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }

  leave(frame: RawFrame): void {
    this.write(frame);
    this.#over = true;
    this.#socket.end();
    const timer = setTimeout(() => this.#socket.destroy(), goodbyeMs);
    this.#socket.once("close", () => clearTimeout(timer));
  }

  destroy(): void {
    this.#over = true;
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    if (this.#over) return;
    try {
      this.#reader.push(chunk, (frame) => this.#over || this.#events.frame(frame));
    } catch (caught) {
      this.#gone(AppError.from(caught, "reading a frame"));
      this.#socket.destroy();
    }
  }

  #ended(): void {
    if (this.#over) return;
    this.#gone(this.#reason());
    this.#socket.destroy();
  }

  #reason(): AppError | undefined {
    if (this.#error) return new AppError(messageOf(this.#error), { code: "Unavailable", cause: this.#error, retry: "backoff" });
    if (!this.#reader.within) return undefined;
    return new AppError("the stream ended within a frame", { code: "Unavailable", retry: "backoff" });
  }

  #gone(reason: AppError | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#events.gone(reason);
  }
}
