// Unanswered frames of this rank's steps, sent by connection or by the main thread's Dispatch.
import type { AppError } from "../../crds/common.ts";
import type { FrameAnswer, RemoteFrame } from "./api.ts";
import type { PeerConnections } from "./peer-connections.ts";
import { type FromEngine, fromPlain, type ToEngine } from "./thread/messages.ts";

interface Waiting {
  resolve(rows: Float32Array): void;
  reject(error: unknown): void;
}

export class Outbound {
  readonly #connections: Pick<PeerConnections, "dispatch" | "pending">;
  readonly #send: (message: FromEngine, transfer: ArrayBuffer[]) => void;
  readonly #asked = new Map<number, Waiting>();
  #next = 0;
  /** Why later frames fail at once. */
  #failed: AppError | undefined;

  constructor(connections: Pick<PeerConnections, "dispatch" | "pending">, send: (message: FromEngine, transfer: ArrayBuffer[]) => void) {
    this.#connections = connections;
    this.#send = send;
  }

  get pending(): number {
    return this.#asked.size + this.#connections.pending;
  }

  dispatch(frame: RemoteFrame, gatesOf: () => Float32Array): Promise<FrameAnswer> {
    const sent = this.#connections.dispatch(frame, gatesOf);
    return sent === undefined ? this.#byMain(frame) : sent.then((rows) => rows ?? this.#byMain(frame));
  }

  answered(message: Extract<ToEngine, { type: "dispatched" | "dispatchFailed" }>): void {
    const waiting = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    if (message.type === "dispatched") waiting?.resolve(message.rows);
    else waiting?.reject(fromPlain(message.error));
  }

  /** Frames on engine connections fail when these end. */
  fail(error: AppError): void {
    this.#failed = error;
    for (const { reject } of this.#asked.values()) reject(error);
    this.#asked.clear();
  }

  #byMain(frame: RemoteFrame): Promise<Float32Array> {
    if (this.#failed) return Promise.reject(this.#failed);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      this.#send({ type: "dispatch", id, frame }, [frame.rows.buffer as ArrayBuffer]);
    });
  }
}
