// The sending end between two training ranks: it connects at first use, retries until the peer is there, and sends payloads in chunks.
import { AppError } from "../../../crds/common.ts";
import { FailureDetector } from "../failure-detector.ts";
import { frameKinds } from "../frame-codec.ts";
import { Channel } from "../gen/enodia/runtime/v1/runtime_pb.js";
import { toSender } from "../mapping.ts";
import { type EndReason, PeerConnection, type PeerTarget } from "../peer-connection.ts";
import type { FrameName, Payload, Stamp } from "./transport.ts";
import { chunkBytes, encodeChunk, type Hello, kindOf, payloadBytesMax } from "./wire-codec.ts";
import { behindCode, broken, leftCode, lostRank, type Owner, silentRank } from "./wire-owner.ts";

interface Waiting {
  go(): void;
  fail(error: AppError): void;
}

export class RankLink {
  readonly #rank: number;
  readonly #target: () => PeerTarget;
  readonly #hello: Hello;
  readonly #owner: Owner;
  readonly #begunAt = performance.now();
  readonly #detector: FailureDetector;
  readonly #waiting = new Set<Waiting>();
  #connection: PeerConnection | undefined;
  /** It keeps the payloads in order. */
  #last: Promise<void> = Promise.resolve();
  #triedAt = Number.NEGATIVE_INFINITY;
  #trouble = "it did not answer";
  #ready = false;
  #over: AppError | undefined;

  constructor(rank: number, target: () => PeerTarget, hello: Hello, owner: Owner) {
    this.#rank = rank;
    this.#target = target;
    this.#hello = hello;
    this.#owner = owner;
    this.#detector = new FailureDetector(owner.limits, performance.now());
    this.#connect();
  }

  send(stamp: Stamp, name: FrameName, payload: Payload): Promise<void> {
    const sent = this.#last.then(() => this.#send(stamp, name, payload));
    this.#last = sent.catch(() => {});
    return sent;
  }

  /** Call it every `lookMs`. */
  look(nowMs: number): void {
    if (this.#over !== undefined) return;
    const { lookMs, reachMs, timeoutMs } = this.#owner.limits;
    const silentMs = this.#detector.look(nowMs);
    if (this.#ready) {
      if (this.#detector.hasFailed) this.#owner.lost(silentRank(this.#rank, `said nothing for ${Math.round(silentMs)} ms`));
      else if (this.#connection?.isFull === false) this.#connection.ping();
    } else if (nowMs - this.#begunAt >= reachMs) {
      this.#owner.lost(silentRank(this.#rank, `could not be reached for ${reachMs} ms: ${this.#trouble}`));
    } else if (this.#connection === undefined) {
      if (nowMs - this.#triedAt >= lookMs) this.#connect();
    } else if (nowMs - this.#triedAt >= timeoutMs) this.#again("it did not answer");
  }

  /** Sends the reason after the current chunk. */
  leave(why: EndReason): void {
    if (this.#over !== undefined) return;
    if (this.#ready) this.#connection?.end(why);
    else this.#connection?.destroy();
    this.#fail(new AppError(why.message, { code: why.code, operation: "sending a frame" }));
  }

  /** The peer has left. */
  abandon(error: AppError): void {
    if (this.#over !== undefined) return;
    this.#connection?.destroy();
    this.#fail(error);
  }

  async #send(stamp: Stamp, name: FrameName, payload: Payload): Promise<void> {
    const bytes = payload.byteLength;
    const kind = kindOf(payload);
    if (bytes > payloadBytesMax) {
      const message = `${name.what} of layer ${name.layer}: ${bytes} bytes for rank ${this.#rank}, more than ${payloadBytesMax}`;
      throw new AppError(`${message}; take fewer sequences or more ranks`, { code: "MessageTooLarge", operation: "sending a frame" });
    }
    if (!this.#ready) await this.#wait(() => {});
    for (let at = 0; at === 0 || at < bytes; at += chunkBytes) {
      const head = encodeChunk({ stamp, name, kind, bytes, at });
      const body = new Uint8Array(payload.buffer, payload.byteOffset + at, Math.min(chunkBytes, bytes - at));
      await this.#wait((left) => this.#connection?.write(frameKinds.payload, head, body, left));
    }
    this.#owner.sent.count(name.what, bytes);
  }

  /** Starts something and waits until it is done, or for the next `go`. */
  #wait(begin: (done: () => void) => void): Promise<void> {
    if (this.#over !== undefined) return Promise.reject(this.#over);
    const { frameMs } = this.#owner.limits;
    return new Promise((resolve, reject) => {
      const end = (then: () => void): void => {
        clearTimeout(late);
        this.#waiting.delete(waiting);
        then();
      };
      const waiting: Waiting = { go: () => end(resolve), fail: (error) => end(() => reject(error)) };
      const late = setTimeout(() => waiting.fail(backlog(this.#rank, frameMs)), frameMs);
      this.#waiting.add(waiting);
      try {
        begin(waiting.go);
      } catch (caught) {
        waiting.fail(AppError.from(caught, "sending a frame"));
      }
    });
  }

  #connect(): void {
    this.#triedAt = performance.now();
    try {
      const { job, rank, world, ranks } = this.#hello;
      const sender = toSender({ deploymentUid: job, rank, podUid: "", bootId: "" });
      const hello = { sender, channel: Channel.TRAINING, world: BigInt(world), ranks };
      const connection: PeerConnection = PeerConnection.call(this.#target(), hello, this.#detector, {
        welcome: () => this.#welcomed(),
        frame: ({ kind }) => {
          throw new AppError(`a frame of kind ${kind} where a heartbeat is due`, { code: "InvalidFrame" });
        },
        ended: (why) => this.#ended(why),
        gone: (reason) => this.#gone(connection, reason),
      });
      this.#connection = connection;
    } catch (caught) {
      this.#again(AppError.from(caught).message);
    }
  }

  #again(trouble: string): void {
    this.#trouble = trouble;
    this.#connection?.destroy();
    this.#connection = undefined;
  }

  #gone(connection: PeerConnection, reason: AppError | undefined): void {
    if (connection !== this.#connection || this.#over !== undefined) return;
    if (this.#ready) this.#owner.lost(broken(this.#rank, reason));
    else this.#again(reason?.message ?? "it ended the connection");
  }

  #welcomed(): void {
    if (this.#ready) return;
    this.#ready = true;
    for (const waiting of [...this.#waiting]) waiting.go();
  }

  #ended(why: EndReason): void {
    if (why.code === behindCode) {
      this.#again(why.message);
      return;
    }
    if (why.code === leftCode) this.#owner.left(this.#rank, false, lostRank(this.#rank, why.message));
    else this.#owner.lost(new AppError(why.message, { code: why.code, operation: `hearing of rank ${this.#rank}` }));
  }

  #fail(error: AppError): void {
    this.#over = error;
    for (const waiting of [...this.#waiting]) waiting.fail(error);
  }
}

function backlog(rank: number, ms: number): AppError {
  return new AppError(
    `rank ${rank} took no bytes for ${ms} ms: it falls behind, or copies come too far ahead; ` +
      'take rematerialize "AfterForward" or fewer memorySlots, and fewer sequences where it is rows',
    { code: "FrameBacklog", operation: "sending a frame" },
  );
}
