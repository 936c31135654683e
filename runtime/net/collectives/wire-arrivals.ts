// The receiving end between two ranks of training: checks who calls, puts payloads together from chunks, and reads no more while a lot
// waits to be asked for, so that the sender waits. It gives heartbeats all the while.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { FailureDetector } from "../failure-detector.ts";
import { frameKinds, type RawFrame } from "../frame-codec.ts";
import { Channel, type Hello as HelloMessage } from "../gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "../mapping.ts";
import { type EndReason, PeerConnection } from "../peer-connection.ts";
import { type ChunkHead, decodeChunk, type Hello, payloadOf } from "./wire-codec.ts";
import { broken, leftCode, lostRank, type Owner, silentRank } from "./wire-owner.ts";

/** A payload of which some came. */
interface Arriving {
  readonly head: ChunkHead;
  readonly pieces: Uint8Array[];
  bytes: number;
}

export interface ArrivalsOwner extends Owner {
  /** Undefined: the caller is heard from now on. */
  refuses(hello: Hello, arrivals: Arrivals): EndReason | undefined;
  /** An end that was never heard, or broke. */
  problem(message: string): void;
}

export class Arrivals {
  /** What its certificate says. */
  readonly rank: number;
  readonly #owner: ArrivalsOwner;
  readonly #connection: PeerConnection;
  readonly #detector: FailureDetector;
  #partial: Arriving | undefined;
  #greeted = false;
  #paused = false;
  #over = false;

  constructor(socket: TLSSocket, rank: number, owner: ArrivalsOwner) {
    this.rank = rank;
    this.#owner = owner;
    this.#detector = new FailureDetector(owner.limits, performance.now());
    this.#connection = PeerConnection.answer(socket, this.#detector, {
      hello: (hello) => this.#greet(hello),
      frame: (frame) => this.#take(frame),
      ended: (why) => this.#told(why),
      gone: (reason) => this.#gone(reason),
    });
  }

  /** To be called every `lookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    if (this.#over) return;
    // What is not read cannot be heard.
    if (this.#paused) this.#detector.heard();
    else if (this.#detector.hasFailed) this.#silent(silentMs);
    if (this.#greeted && !this.#connection.isFull) this.#connection.ping();
  }

  /** To be called when frames of this rank are asked for. */
  asked(): void {
    if (!this.#paused || this.#full()) return;
    this.#paused = false;
    this.#connection.resume();
  }

  leave(why: EndReason): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#greeted) this.#connection.end(why);
    else this.#connection.destroy();
    // Nothing more is taken, but the other end's last words have to come through.
    this.#connection.resume();
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
    this.#connection.destroy();
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
    if (kind !== frameKinds.payload) throw new AppError(`a frame of kind ${kind} where payloads are due`, { code: "InvalidFrame" });
    this.#chunk(decodeChunk(head, body.byteLength), body);
  }

  #greet({ sender, channel, world, ranks }: HelloMessage): AppError | Record<string, never> {
    if (channel !== Channel.TRAINING) throw new AppError(`a caller for channel ${channel}`, { code: "InvalidFrame" });
    const hello = { job: sender?.deploymentUid ?? "", rank: sender?.rank ?? -1, world: toNumber(world, "world"), ranks };
    const why = this.#owner.refuses(hello, this);
    this.#greeted = why === undefined;
    if (why === undefined) return {};
    this.#over = true;
    this.#owner.problem(`rank ${this.rank} was refused: ${why.message}`);
    return new AppError(why.message, { code: why.code });
  }

  /** Memory is taken for what has come; what a head says of the whole is only compared. */
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
    this.#connection.pause();
  }

  #told(why: EndReason): void {
    this.#over = true;
    this.#connection.destroy();
    if (why.code === leftCode) this.#owner.left(this.rank, true, lostRank(this.rank, why.message));
    else this.#owner.lost(new AppError(why.message, { code: why.code, operation: `hearing of rank ${this.rank}` }));
  }
}

/** A payload that is under way may be what is awaited. */
const payloadSlack = (partial: Arriving | undefined): number => partial?.head.bytes ?? 0;
