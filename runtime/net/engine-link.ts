// The calling end of an engine connection. It gives up early: Dispatch retries what a connection does not answer.
import { AppError } from "../../crds/common.ts";
import { engineLimits, FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame, streamBytesMax } from "./frame-codec.ts";
import { Channel } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, toSender } from "./mapping.ts";
import { PeerConnection, type PeerTarget } from "./peer-connection.ts";
import { decodeSeq, encodeRowsFrame, type RowsFrame, sumsForm } from "./rows-codec.ts";

/** Dispatch waits as long; pings only show that the host lives. */
export const engineFrameMsMax = 30_000;
const inFlightMax = 512;

interface EngineSelf {
  readonly identity: Identity;
  readonly hidden: number;
  readonly sums: boolean;
}

/**
 * `rows`: f32 LE or halves, made when they can be sent; `answerBytes`: the size of the answer; `heldBytes`: the host's memory for f32 rows
 * and pairs.
 */
export interface EngineWork extends Omit<RowsFrame, "seq"> {
  readonly rows: () => Uint8Array;
  readonly answerBytes: number;
  readonly heldBytes: number;
}

interface Pending {
  readonly resolve: (rows: Uint8Array | undefined) => void;
  readonly reject: (error: AppError) => void;
  readonly answerBytes: number;
  readonly bytes: number;
  readonly sentAt: number;
}

export class EngineLink {
  readonly #connection: PeerConnection;
  readonly #onClosed: (reason: AppError, wasReady: boolean) => void;
  readonly #pending = new Map<number, Pending>();
  readonly #detector = new FailureDetector(engineLimits, performance.now());
  #ready = false;
  #sums = false;
  #closed = false;
  #full = false;
  #bytes = 0;
  #seq = 0;

  constructor(target: PeerTarget, { identity, hidden, sums }: EngineSelf, onClosed: (reason: AppError, wasReady: boolean) => void) {
    this.#onClosed = onClosed;
    const hello = { sender: toSender(identity), channel: Channel.ENGINE, hidden, sums: sums ? sumsForm : "" };
    this.#connection = PeerConnection.call(target, hello, this.#detector, {
      atOnce: true,
      welcome: (welcome) => {
        this.#sums = sums && welcome.sums === sumsForm;
        this.#ready = !this.#closed;
      },
      frame: (frame) => this.#take(frame),
      ended: ({ code, message }) => this.close(new AppError(message, { code, retry: "backoff" })),
      gone: (reason) => this.close(reason ?? new AppError("the host ended the connection", { code: "Unavailable", retry: "backoff" })),
      drain: () => {
        this.#full = false;
      },
    });
  }

  get ready(): boolean {
    return this.#ready;
  }

  get sums(): boolean {
    return this.#sums;
  }

  /** Resolves with nothing when Dispatch has to ask; rejects when the connection ends. Undefined: it accepts none now. */
  send({ rows, answerBytes, heldBytes: bytes, ...frame }: EngineWork): Promise<Uint8Array | undefined> | undefined {
    const heavy = this.#bytes > 0 && this.#bytes + bytes > streamBytesMax;
    if (!this.#ready || this.#closed || this.#full || heavy || this.#pending.size >= inFlightMax) return undefined;
    const [seq, body] = [this.#nextSeq(), rows()];
    const answered = new Promise<Uint8Array | undefined>((resolve, reject) => {
      this.#pending.set(seq, { resolve, reject, answerBytes, bytes, sentAt: performance.now() });
    });
    this.#bytes += bytes;
    this.#full = !this.#connection.write(frameKinds.rows, encodeRowsFrame(Object.assign({ seq }, frame)), body);
    return answered;
  }

  /** Call it every `engineLimits.lookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    const [oldest] = this.#pending.values(); // the map is in the order of sending
    if (oldest !== undefined && nowMs - oldest.sentAt >= engineFrameMsMax) {
      const late = `the host did not answer a frame within ${engineFrameMsMax / 1000} s`;
      this.close(new AppError(late, { code: "DeadlineExceeded", retry: "backoff" }));
      return;
    }
    if (this.#detector.hasFailed && (!this.#ready || this.#pending.size > 0)) this.#silent(silentMs);
    else if (this.#ready && silentMs >= engineLimits.pingMs) this.#connection.ping();
  }

  close(reason: AppError): void {
    if (this.#closed) return;
    const wasReady = this.#ready;
    this.#closed = true;
    this.#ready = false;
    this.#connection.destroy();
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
    this.#onClosed(reason, wasReady);
  }

  #silent(ms: number): void {
    this.close(new AppError(`the host's engine said nothing for ${Math.round(ms)} ms`, { code: "Silent", retry: "backoff" }));
  }

  #nextSeq(): number {
    this.#seq = (this.#seq + 1) >>> 0;
    return this.#seq;
  }

  #take({ kind, head, body }: RawFrame): void {
    if (kind !== frameKinds.reply && kind !== frameKinds.declined) {
      throw new AppError(`a frame of kind ${kind} where an answer is due`, { code: "InvalidFrame" });
    }
    const seq = decodeSeq(head);
    const pending = this.#pending.get(seq);
    if (pending === undefined) throw new AppError(`seq: ${seq} was not asked`, { code: "InvalidFrame" });
    this.#pending.delete(seq);
    this.#bytes -= pending.bytes;
    if (kind === frameKinds.declined || body.byteLength === pending.answerBytes) {
      pending.resolve(kind === frameKinds.declined ? undefined : body);
      return;
    }
    const wrong = `the host answered ${body.byteLength} bytes for ${pending.answerBytes}`;
    const error = new AppError(wrong, { code: "InvalidReply", operation: "reading a frame" });
    pending.reject(error);
    throw error;
  }
}
