// Asks the main thread to load experts of a frame and to have it computed.
import type { AppError } from "../../../crds/common.ts";
import type { OnDemandFrame } from "../api.ts";
import { type FromEngine, fromPlain, type ToEngine } from "./messages.ts";

interface Waiting {
  resolve(rows: Float32Array): void;
  reject(error: unknown): void;
}

export class OnDemandCalls {
  readonly #send: (message: FromEngine, transfer: ArrayBuffer[]) => void;
  readonly #asked = new Map<number, Waiting>();
  #next = 0;

  constructor(send: (message: FromEngine, transfer: ArrayBuffer[]) => void) {
    this.#send = send;
  }

  run(frame: OnDemandFrame): Promise<Float32Array> {
    const id = this.#next++;
    const rows = frame.rows.slice(); // the buffer may be a chunk of a socket
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      this.#send({ type: "runOnDemand", id, frame: { ...frame, rows } }, [rows.buffer]);
    });
  }

  answered(message: Extract<ToEngine, { type: "ranOnDemand" | "onDemandFailed" }>): void {
    const waiting = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    if (message.type === "ranOnDemand") waiting?.resolve(message.rows);
    else waiting?.reject(fromPlain(message.error));
  }

  fail(error: AppError): void {
    for (const { reject } of this.#asked.values()) reject(error);
    this.#asked.clear();
  }
}
