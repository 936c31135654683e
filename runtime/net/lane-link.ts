// The asking end of a lane: frames from one engine thread straight to another's, so that no other thread has to wake for them. It gives
// up early: what a lane does not answer is asked for by Dispatch, which knows other ranks (experts/dispatch).
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { type FramesTarget, openFrames } from "./dispatch-link.ts";
import { frameKinds, type RawFrame, streamBytesMax } from "./frame-codec.ts";
import { FrameSocket, lanesAlpn } from "./frame-socket.ts";
import { LaneHelloSchema, LaneWelcomeSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { decodeSeq, encodeLaneFrame, type LaneFrame, sumsForm } from "./lane-codec.ts";
import { type Identity, toSender } from "./mapping.ts";
import { Silence } from "./silence.ts";

/** A lane is to be looked at this often. */
export const laneLookMs = 250;
/** A host that says nothing for so long while frames are under way: its engine does not come to them, or the connection is dead. */
const silenceMs = 4_000;
/** Until it has said that it takes frames. */
const connectMs = 2_000;
const pingAfterMs = 2_000;
/** A frame waits for its answer as long as Dispatch would wait. Pings say that a host lives, and not that it ever comes to a frame. */
export const laneFrameMsMax = 30_000;
/** Frames under way on one lane. */
const inFlightMax = 512;
const none = new Uint8Array(0);

interface LaneSelf {
  readonly identity: Identity;
  readonly hidden: number;
  /** This end can do with sums. */
  readonly sums: boolean;
}

/** `rows`: f32 LE, or those of half-rows.ts beside gates, made once there is room for them; `answerBytes`: those of the rows that it asks
 *  for; `heldBytes`: of f32 rows and those of pairs, which the host has at the same time. */
export interface LaneWork extends Omit<LaneFrame, "seq"> {
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

export class LaneLink {
  readonly #frames: FrameSocket;
  readonly #onClosed: (reason: AppError, wasReady: boolean) => void;
  readonly #pending = new Map<number, Pending>();
  readonly #silence = new Silence(laneLookMs, performance.now());
  readonly #asksSums: boolean;
  #ready = false;
  #sums = false;
  #closed = false;
  #full = false;
  #bytes = 0;
  #seq = 0;

  constructor(target: FramesTarget, { identity, hidden, sums }: LaneSelf, onClosed: (reason: AppError, wasReady: boolean) => void) {
    this.#onClosed = onClosed;
    this.#asksSums = sums;
    const socket = openFrames(target, lanesAlpn);
    this.#frames = new FrameSocket(socket, {
      atOnce: true,
      frame: (frame) => this.#take(frame),
      gone: (reason) => this.close(reason ?? new AppError("the host ended the lane", { code: "Unavailable", retry: "backoff" })),
      drain: () => {
        this.#full = false;
      },
    });
    socket.once("secureConnect", () => {
      if (socket.alpnProtocol !== lanesAlpn) {
        this.close(new AppError("the other end takes no lanes", { code: "Unavailable" }));
        return;
      }
      const hello = create(LaneHelloSchema, { sender: toSender(identity), hidden, sums: sums ? sumsForm : "" });
      this.#frames.write({ kind: frameKinds.hello, head: toBinary(LaneHelloSchema, hello), body: none });
    });
  }

  /** The host takes frames. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Both ends can do with sums: frames may have gates. */
  get sums(): boolean {
    return this.#sums;
  }

  /** The rows, or nothing where the host wants to be asked by Dispatch; rejects when the lane ends. Undefined: it has no room now. */
  send({ rows, answerBytes, heldBytes: bytes, ...frame }: LaneWork): Promise<Uint8Array | undefined> | undefined {
    const heavy = this.#bytes > 0 && this.#bytes + bytes > streamBytesMax;
    if (!this.#ready || this.#closed || this.#full || heavy || this.#pending.size >= inFlightMax) return undefined;
    const [seq, body] = [this.#nextSeq(), rows()];
    const answered = new Promise<Uint8Array | undefined>((resolve, reject) => {
      this.#pending.set(seq, { resolve, reject, answerBytes, bytes, sentAt: performance.now() });
    });
    this.#bytes += bytes;
    this.#full = !this.#frames.write({ kind: frameKinds.frame, head: encodeLaneFrame(Object.assign({ seq }, frame)), body });
    return answered;
  }

  /** To be called every `laneLookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#silence.look(nowMs);
    const [oldest] = this.#pending.values(); // they are kept in the order in which they were sent
    if (oldest !== undefined && nowMs - oldest.sentAt >= laneFrameMsMax) {
      const late = `the host did not answer a frame within ${laneFrameMsMax / 1000} s`;
      this.close(new AppError(late, { code: "DeadlineExceeded", retry: "backoff" }));
      return;
    }
    const patienceMs = this.#ready ? silenceMs : connectMs;
    if (silentMs >= patienceMs && (!this.#ready || this.#pending.size > 0)) this.#silent(silentMs);
    else if (this.#ready && silentMs >= pingAfterMs) this.#frames.write({ kind: frameKinds.ping, head: none, body: none });
  }

  close(reason: AppError): void {
    if (this.#closed) return;
    const wasReady = this.#ready;
    this.#closed = true;
    this.#ready = false;
    this.#frames.destroy();
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

  #welcome(head: Uint8Array): void {
    this.#sums = this.#asksSums && fromBinary(LaneWelcomeSchema, head).sums === sumsForm;
    this.#ready = !this.#closed;
  }

  #take({ kind, head, body }: RawFrame): void {
    this.#silence.heard();
    if (kind === frameKinds.ping) {
      if (!this.#ready) this.#welcome(head);
      return;
    }
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
