// The receiving end between two training ranks: checks the caller, assembles payloads, and stops reading while too much is unclaimed.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { FailureDetector } from "../failure-detector.ts";
import { frameKinds, type RawFrame } from "../frame-codec.ts";
import { Channel, type Hello as HelloMessage } from "../gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "../mapping.ts";
import { type EndReason, PeerConnection } from "../peer-connection.ts";
import { type ChunkHead, decodeChunk, type Hello, payloadOf } from "./wire-codec.ts";
import { broken, leftCode, lostRank, type Owner, silentRank } from "./wire-owner.ts";

interface Arriving {
  readonly head: ChunkHead;
  readonly pieces: Uint8Array[];
  bytes: number;
}

export interface ArrivalsOwner extends Owner {
  /** Undefined: the caller is accepted. */
  refuses(hello: Hello, arrivals: Arrivals): EndReason | undefined;
  /** A caller that was never accepted, or a broken connection. */
  problem(message: string): void;
}

export class Arrivals {
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
      ended: (why) => this.#ended(why),
      gone: (reason) => this.#gone(reason),
    });
  }

  /** Call it every `lookMs`. */
  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    if (this.#over) return;
    // A paused socket says nothing about the peer.
    if (this.#paused) this.#detector.heard();
    else if (this.#detector.hasFailed) this.#silent(silentMs);
    if (this.#greeted && !this.#connection.isFull) this.#connection.ping();
  }

  /** Call it when this rank's frames are requested. */
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
    // Accepts no data, but still reads the peer's exit message.
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

  /** Allocates only what has arrived; the claimed total is just compared. */
  #chunk(head: ChunkHead, body: Uint8Array): void {
    const partial = this.#partial ?? { head, pieces: [], bytes: 0 };
    if (head.at !== partial.bytes || head.bytes !== partial.head.bytes) {
      throw new AppError(`at: ${head.at} of ${head.bytes}, ${partial.bytes} of ${partial.head.bytes} came`, { code: "InvalidFrame" });
    }
    // A view into a much larger socket buffer would keep all of it.
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

  #ended(why: EndReason): void {
    this.#over = true;
    this.#connection.destroy();
    if (why.code === leftCode) this.#owner.left(this.rank, true, lostRank(this.rank, why.message));
    else this.#owner.lost(new AppError(why.message, { code: why.code, operation: `hearing of rank ${this.rank}` }));
  }
}

/** A payload in progress may be the awaited one. */
const payloadSlack = (partial: Arriving | undefined): number => partial?.head.bytes ?? 0;
