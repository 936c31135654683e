// Asks the main thread to load experts of a frame and to have it computed.
import { AppError } from "../../../crds/common.ts";
import type { OnDemandFrame } from "../api.ts";
import { type FromEngine, fromPlain, type ToEngine } from "./messages.ts";

/** Bytes of rows that wait for loads, of own frames and others'; one frame is always taken. */
export const onDemandBytesMax = 64 * 1024 * 1024;

interface Waiting {
  readonly bytes: number;
  resolve(rows: Float32Array): void;
  reject(error: unknown): void;
}

export class OnDemandCalls {
  readonly #send: (message: FromEngine, transfer: ArrayBuffer[]) => void;
  readonly #uses: () => Int32Array | undefined;
  readonly #asked = new Map<number, Waiting>();
  #bytes = 0;
  #next = 0;

  /** `uses`: see OnDemandFrame.used. */
  constructor(send: (message: FromEngine, transfer: ArrayBuffer[]) => void, uses: () => Int32Array | undefined = () => undefined) {
    this.#send = send;
    this.#uses = uses;
  }

  /** Rejects with `Busy` beyond `onDemandBytesMax`. */
  run(frame: OnDemandFrame): Promise<Float32Array> {
    const bytes = frame.rows.byteLength;
    if (this.#bytes > 0 && this.#bytes + bytes > onDemandBytesMax)
      return Promise.reject(new AppError("frames that wait for loads hold too many bytes", { code: "Busy", retry: "backoff" }));
    const id = this.#next++;
    const rows = frame.rows.slice(); // the buffer may be a chunk of a socket
    const used = this.#uses();
    return new Promise((resolve, reject) => {
      this.#send({ type: "runOnDemand", id, frame: { ...frame, rows, ...(used && { used }) } }, [rows.buffer]);
      this.#asked.set(id, { bytes, resolve, reject });
      this.#bytes += bytes;
    });
  }

  answered(message: Extract<ToEngine, { type: "ranOnDemand" | "onDemandFailed" }>): void {
    const waiting = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    this.#bytes -= waiting?.bytes ?? 0;
    if (message.type === "ranOnDemand") waiting?.resolve(message.rows);
    else waiting?.reject(fromPlain(message.error));
  }

  fail(error: AppError): void {
    for (const { reject } of this.#asked.values()) reject(error);
    this.#asked.clear();
    this.#bytes = 0;
  }
}
