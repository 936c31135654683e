// The receiving end between two ranks of training: checks who calls, puts payloads together from chunks, and reads no more while a lot
// waits to be asked for, so that the sender waits. It gives signs of life all the while.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { frameKinds, type RawFrame } from "../frame-codec.ts";
import { FrameSocket } from "../frame-socket.ts";
import { Silence } from "../silence.ts";
import {
  type ChunkHead,
  decodeChunk,
  decodeGoodbye,
  decodeHello,
  encodeGoodbye,
  type Goodbye,
  type Hello,
  payloadOf,
} from "./wire-codec.ts";
import { broken, leftCode, lostRank, type Owner, silentRank } from "./wire-owner.ts";

const none = new Uint8Array(0);

/** A payload of which some came. */
interface Arriving {
  readonly head: ChunkHead;
  readonly pieces: Uint8Array[];
  bytes: number;
}

export interface ArrivalsOwner extends Owner {
  /** Why a caller is not heard; undefined: it is, from now on. */
  refuses(hello: Hello, arrivals: Arrivals): Goodbye | undefined;
  /** An end that was never heard, or broke. */
  problem(message: string): void;
}

export class Arrivals {
  /** What its certificate says. */
  readonly rank: number;
  readonly #socket: TLSSocket;
  readonly #owner: ArrivalsOwner;
  readonly #frames: FrameSocket;
  readonly #silence: Silence;
  #partial: Arriving | undefined;
  #greeted = false;
  #paused = false;
  #over = false;

  constructor(socket: TLSSocket, rank: number, owner: ArrivalsOwner) {
    this.rank = rank;
    this.#socket = socket;
    this.#owner = owner;
    this.#silence = new Silence(owner.limits.lookMs, performance.now());
    this.#frames = new FrameSocket(socket, { frame: (frame) => this.#take(frame), gone: (reason) => this.#gone(reason) });
  }

  /** To be called every `lookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#silence.look(nowMs);
    if (this.#over) return;
    // What is not read cannot be heard.
    if (this.#paused) this.#silence.heard();
    else if (silentMs >= this.#owner.limits.silenceMs) this.#silent(silentMs);
    if (this.#greeted && !this.#socket.writableNeedDrain) this.#frames.write({ kind: frameKinds.ping, head: none, body: none });
  }

  /** To be called when frames of this rank are asked for. */
  asked(): void {
    if (!this.#paused || this.#full()) return;
    this.#paused = false;
    this.#socket.resume();
  }

  leave(why: Goodbye): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#greeted) this.#frames.leave({ kind: frameKinds.end, head: encodeGoodbye(why), body: none });
    else this.#frames.destroy();
    // Nothing more is taken, but the other end's last words have to come through.
    this.#socket.resume();
  }

  #full(): boolean {
    const { inbox, limits } = this.#owner;
    return this.#held() > limits.heldBytes && !inbox.awaits(this.rank);
  }

  #held(): number {
    return this.#owner.inbox.heldBytes(this.rank) + (this.#partial?.bytes ?? 0);
  }

  #silent(ms: number): void {
    this.#over = true;
    this.#frames.destroy();
    if (this.#greeted) this.#owner.lost(silentRank(this.rank, `said nothing for ${Math.round(ms)} ms`));
    else this.#owner.problem(`a caller with the certificate of rank ${this.rank} did not say who it is`);
  }

  #gone(reason: AppError | undefined): void {
    if (this.#over) return;
    this.#over = true;
    const error = broken(this.rank, reason);
    if (this.#greeted) this.#owner.lost(error);
    else this.#owner.problem(`before it said who it is: ${error.message}`);
  }

  #take({ kind, head, body }: RawFrame): void {
    this.#silence.heard();
    if (!this.#greeted) this.#greet(kind, head);
    else if (kind === frameKinds.frame) this.#chunk(decodeChunk(head, body.byteLength), body);
    else if (kind === frameKinds.end) this.#told(decodeGoodbye(head));
    else if (kind !== frameKinds.ping) throw new AppError(`a frame of kind ${kind} where payloads are due`, { code: "InvalidFrame" });
  }

  #greet(kind: number, head: Uint8Array): void {
    if (kind !== frameKinds.hello) throw new AppError("a caller that begins without a hello", { code: "InvalidFrame" });
    const why = this.#owner.refuses(decodeHello(head), this);
    if (why === undefined) {
      this.#greeted = true;
      this.#frames.write({ kind: frameKinds.ping, head: none, body: none });
      return;
    }
    this.#over = true;
    this.#owner.problem(`rank ${this.rank} was refused: ${why.message}`);
    this.#frames.leave({ kind: frameKinds.end, head: encodeGoodbye(why), body: none });
  }

  /** Memory is taken for what has come alone: what a head says of the whole is only compared. */
  #chunk(head: ChunkHead, body: Uint8Array): void {
    const partial = this.#partial ?? { head, pieces: [], bytes: 0 };
    if (head.at !== partial.bytes || head.bytes !== partial.head.bytes) {
      throw new AppError(`at: ${head.at} of ${head.bytes}, ${partial.bytes} of ${partial.head.bytes} came`, { code: "InvalidFrame" });
    }
    // One that lies in a larger chunk of the socket would hold all of it.
    partial.pieces.push(body.buffer.byteLength > 2 * body.byteLength ? body.slice() : body);
    partial.bytes += body.byteLength;
    const { stamp, name, kind, bytes } = partial.head;
    this.#partial = partial.bytes < bytes ? partial : undefined;
    if (this.#partial === undefined) this.#owner.inbox.put(this.rank, name, { stamp, payload: payloadOf(kind, bytes, partial.pieces) });
    this.#bound();
  }

  #bound(): void {
    const { heldBytes } = this.#owner.limits;
    const held = this.#held();
    if (held > 2 * heldBytes + payloadSlack(this.#partial)) {
      const message = `rank ${this.rank} sent ${held} bytes that nobody asked for, ${2 * heldBytes} are allowed, and not what is awaited`;
      throw new AppError(message, { code: "FrameBacklog", operation: "receiving a frame" });
    }
    if (this.#paused || !this.#full()) return;
    this.#paused = true;
    this.#socket.pause();
  }

  #told(why: Goodbye): void {
    this.#over = true;
    this.#frames.destroy();
    if (why.code === leftCode) this.#owner.left(this.rank, true, lostRank(this.rank, why.message));
    else this.#owner.lost(new AppError(why.message, { code: why.code, operation: `hearing of rank ${this.rank}` }));
  }
}

/** A payload that is under way may be what is awaited. */
const payloadSlack = (partial: Arriving | undefined): number => partial?.head.bytes ?? 0;
