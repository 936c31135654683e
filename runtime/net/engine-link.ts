// The calling end of an engine connection. It gives up early, since its caller asks another host (engine/frame-run.ts).
import { AppError } from "../../crds/common.ts";
import { engineLimits, FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame, streamBytesMax } from "./frame-codec.ts";
import { Channel } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { encodeHeadsFrame, type HeadsFrame } from "./heads-codec.ts";
import { type Identity, toSender } from "./mapping.ts";
import { PeerConnection, type PeerTarget } from "./peer-connection.ts";
import { decodeDeclined, decodeSeq, encodeRowsFrame, type RowsAnswer, type RowsFrame, sumsForm } from "./rows-codec.ts";

/** Milliseconds after which a frame is given up, since pings only show that the host lives: others may have its experts, a load takes longer. */
export const engineFrameMsMax = 10_000;
export const onDemandFrameMsMax = 30_000;
const loadingFrameMsMax = 60_000;
const inFlightMax = 512;
const unsentMax = 512;

export interface EngineSelf {
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
  /** The host may load experts of the frame one after another. */
  readonly mayLoad?: boolean;
  /** Instead of experts' pairs, heads of a prompt's attention. */
  readonly heads?: Omit<HeadsFrame, "seq">;
}

interface Pending {
  readonly resolve: (answer: RowsAnswer) => void;
  readonly reject: (error: AppError) => void;
  readonly answerBytes: number;
  readonly bytes: number;
  readonly endsAt: number;
  /** Its sender no longer waits, and a late answer is dropped. */
  isLate: boolean;
}

interface Unsent extends Pending {
  readonly work: EngineWork;
}

/** A connection as its user sees it. */
export interface RowsLink {
  readonly ready: boolean;
  /** Both ends exchange sums. */
  readonly sums: boolean;
  /** Rejects when the connection ends. Excess frames wait. Undefined: it is not ready. */
  send(work: EngineWork): Promise<RowsAnswer> | undefined;
  /** Call it every `engineLimits.lookMs`. */
  look(nowMs: number): void;
  close(reason: AppError): void;
}

export interface LinkEvents {
  ready(): void;
  closed(reason: AppError, wasReady: boolean): void;
}

export function frameMsMax({ onDemand, mayLoad }: Pick<EngineWork, "onDemand" | "mayLoad">): number {
  if (mayLoad) return loadingFrameMsMax;
  return onDemand ? onDemandFrameMsMax : engineFrameMsMax;
}

export class EngineLink implements RowsLink {
  readonly #connection: PeerConnection;
  readonly #events: LinkEvents;
  readonly #unsent: Unsent[] = [];
  readonly #pending = new Map<number, Pending>();
  readonly #detector = new FailureDetector(engineLimits, performance.now());
  #ready = false;
  #sums = false;
  #closed = false;
  #full = false;
  #bytes = 0;
  #seq = 0;

  constructor(target: PeerTarget, { identity, hidden, sums }: EngineSelf, events: LinkEvents) {
    this.#events = events;
    const hello = { sender: toSender(identity), channel: Channel.ENGINE, hidden, sums: sums ? sumsForm : "" };
    this.#connection = PeerConnection.call(target, hello, this.#detector, {
      atOnce: true,
      welcome: (welcome) => {
        this.#sums = sums && welcome.sums === sumsForm;
        this.#ready = !this.#closed;
        if (this.#ready) events.ready();
      },
      frame: (frame) => this.#take(frame),
      ended: ({ code, message }) => this.close(new AppError(message, { code, retry: "backoff" })),
      gone: (reason) => this.close(reason ?? new AppError("the host ended the connection", { code: "Unavailable", retry: "backoff" })),
      drain: () => {
        this.#full = false;
        this.#writeUnsent();
      },
    });
  }

  get ready(): boolean {
    return this.#ready;
  }

  get sums(): boolean {
    return this.#sums;
  }

  send(work: EngineWork): Promise<RowsAnswer> | undefined {
    if (!this.#ready || this.#closed) return undefined;
    if (this.#unsent.length >= unsentMax) return Promise.resolve({ type: "busy", afterMs: 0 });
    return new Promise((resolve, reject) => {
      const { answerBytes, heldBytes: bytes } = work;
      const endsAt = performance.now() + frameMsMax(work);
      const unsent = { resolve, reject, answerBytes, bytes, endsAt, isLate: false, work };
      if (this.#unsent.length > 0 || !this.#fits(bytes)) this.#unsent.push(unsent);
      else this.#write(unsent);
    });
  }

  /** One frame always fits once the socket has space. */
  #fits(bytes: number): boolean {
    const heavy = this.#bytes > 0 && this.#bytes + bytes > streamBytesMax;
    return !this.#full && !heavy && this.#pending.size < inFlightMax;
  }
  #writeUnsent(): void {
    for (let next = this.#unsent[0]; next !== undefined && !this.#closed && this.#fits(next.bytes); next = this.#unsent[0]) {
      this.#unsent.shift();
      this.#write(next);
    }
  }
  #write({ work, ...pending }: Unsent): void {
    const { rows, answerBytes: _answer, heldBytes: _held, heads, ...frame } = work;
    const [seq, body] = [this.#nextSeq(), rows()];
    this.#pending.set(seq, pending);
    this.#bytes += pending.bytes;
    const head = heads ? encodeHeadsFrame({ seq, ...heads }) : encodeRowsFrame(Object.assign({ seq }, frame));
    this.#full = !this.#connection.write(heads ? frameKinds.heads : frameKinds.rows, head, body);
  }

  /** Call it every `engineLimits.lookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    this.#giveUpLate(nowMs);
    if (this.#detector.hasFailed && (!this.#ready || this.#pending.size > 0)) this.#silent(silentMs);
    else if (this.#ready && silentMs >= engineLimits.pingMs) this.#connection.ping();
  }

  close(reason: AppError): void {
    if (this.#closed) return;
    const wasReady = this.#ready;
    this.#closed = true;
    this.#ready = false;
    this.#connection.destroy();
    for (const { reject } of [...this.#pending.values(), ...this.#unsent]) reject(reason);
    this.#pending.clear();
    this.#unsent.length = 0;
    this.#events.closed(reason, wasReady);
  }

  /** Late frames end alone: the connection carries others' rows too. What was sent still counts until its answer. */
  #giveUpLate(nowMs: number): void {
    const isDue = ({ endsAt, isLate }: Pending): boolean => !isLate && nowMs >= endsAt;
    const late = [...this.#pending.values(), ...this.#unsent].filter(isDue);
    if (late.length === 0) return;
    const kept = this.#unsent.filter((unsent) => !isDue(unsent));
    this.#unsent.splice(0, this.#unsent.length, ...kept);
    for (const frame of late) {
      frame.isLate = true;
      frame.reject(new AppError("the host did not answer a frame in its time", { code: "DeadlineExceeded", retry: "backoff" }));
    }
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
    const { seq, declined } = kind === frameKinds.declined ? decodeDeclined(head) : { seq: decodeSeq(head), declined: undefined };
    const pending = this.#pending.get(seq);
    if (pending === undefined) throw new AppError(`seq: ${seq} was not asked`, { code: "InvalidFrame" });
    this.#pending.delete(seq);
    this.#bytes -= pending.bytes;
    this.#writeUnsent();
    if (declined !== undefined || body.byteLength === pending.answerBytes) {
      pending.resolve(declined ?? body);
      return;
    }
    const wrong = `the host answered ${body.byteLength} bytes for ${pending.answerBytes}`;
    const error = new AppError(wrong, { code: "InvalidReply", operation: "reading a frame" });
    pending.reject(error);
    throw error;
  }
}
