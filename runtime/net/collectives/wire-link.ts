// The sending end between two ranks of training: a connection that is made when it is first needed, tried again until the other end is
// there, and on which one payload follows another in chunks. What arrives on it are signs of life and goodbyes.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { type FramesTarget, openFrames } from "../dispatch-link.ts";
import { frameKinds, type RawFrame } from "../frame-codec.ts";
import { FrameSocket } from "../frame-socket.ts";
import { Silence } from "../silence.ts";
import type { FrameName, Payload, Stamp } from "./transport.ts";
import {
  chunkBytes,
  decodeGoodbye,
  encodeChunk,
  encodeGoodbye,
  encodeHello,
  type Goodbye,
  type Hello,
  kindOf,
  payloadBytesMax,
  trainAlpn,
} from "./wire-codec.ts";
import { behindCode, broken, leftCode, lostRank, type Owner, silentRank } from "./wire-owner.ts";

const none = new Uint8Array(0);

interface Waiting {
  go(): void;
  fail(error: AppError): void;
}

export class RankLink {
  readonly #rank: number;
  readonly #target: () => FramesTarget;
  readonly #hello: Hello;
  readonly #owner: Owner;
  readonly #begunAt = performance.now();
  readonly #silence: Silence;
  readonly #waiting = new Set<Waiting>();
  #socket: TLSSocket | undefined;
  #frames: FrameSocket | undefined;
  /** Payloads leave one after another. */
  #last: Promise<void> = Promise.resolve();
  #triedAt = Number.NEGATIVE_INFINITY;
  #trouble = "it did not answer";
  #ready = false;
  #over: AppError | undefined;

  constructor(rank: number, target: () => FramesTarget, hello: Hello, owner: Owner) {
    this.#rank = rank;
    this.#target = target;
    this.#hello = hello;
    this.#owner = owner;
    this.#silence = new Silence(owner.limits.lookMs, performance.now());
    this.#connect();
  }

  send(stamp: Stamp, name: FrameName, payload: Payload): Promise<void> {
    const sent = this.#last.then(() => this.#send(stamp, name, payload));
    this.#last = sent.catch(() => {});
    return sent;
  }

  /** To be called every `lookMs`. */
  look(nowMs: number): void {
    if (this.#over !== undefined) return;
    const { lookMs, reachMs, silenceMs } = this.#owner.limits;
    const silentMs = this.#silence.look(nowMs);
    if (this.#ready) {
      if (silentMs >= silenceMs) this.#owner.lost(silentRank(this.#rank, `said nothing for ${Math.round(silentMs)} ms`));
      else if (this.#socket?.writableNeedDrain === false) this.#say(frameKinds.ping, none);
    } else if (nowMs - this.#begunAt >= reachMs) {
      this.#owner.lost(silentRank(this.#rank, `could not be reached for ${reachMs} ms: ${this.#trouble}`));
    } else if (this.#frames === undefined) {
      if (nowMs - this.#triedAt >= lookMs) this.#connect();
    } else if (nowMs - this.#triedAt >= silenceMs) this.#again("it did not answer");
  }

  /** Says why it leaves, after a chunk that is under way. */
  leave(why: Goodbye): void {
    if (this.#over !== undefined) return;
    if (this.#ready) this.#frames?.leave({ kind: frameKinds.end, head: encodeGoodbye(why), body: none });
    else this.#frames?.destroy();
    this.#fail(new AppError(why.message, { code: why.code, operation: "sending a frame" }));
  }

  /** The other end has left. */
  abandon(error: AppError): void {
    if (this.#over !== undefined) return;
    this.#frames?.destroy();
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
      await this.#wait((left) => this.#frames?.write({ kind: frameKinds.frame, head, body }, left));
    }
    this.#owner.sent.count(name.what, bytes);
  }

  /** Begins something and waits until it is done, or for the next `#go` where nothing says so. */
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
      const socket = openFrames(this.#target(), trainAlpn);
      const frames = new FrameSocket(socket, { frame: (frame) => this.#take(frame), gone: (reason) => this.#gone(frames, reason) });
      [this.#socket, this.#frames] = [socket, frames];
      socket.once("secureConnect", () => {
        if (socket.alpnProtocol === trainAlpn) this.#say(frameKinds.hello, encodeHello(this.#hello));
        else this.#again("it takes no frames of training");
      });
    } catch (caught) {
      this.#again(AppError.from(caught).message);
    }
  }

  #again(trouble: string): void {
    this.#trouble = trouble;
    this.#frames?.destroy();
    [this.#socket, this.#frames] = [undefined, undefined];
  }

  #gone(frames: FrameSocket, reason: AppError | undefined): void {
    if (frames !== this.#frames || this.#over !== undefined) return;
    if (this.#ready) this.#owner.lost(broken(this.#rank, reason));
    else this.#again(reason?.message ?? "it ended the connection");
  }

  #take({ kind, head }: RawFrame): void {
    this.#silence.heard();
    if (kind === frameKinds.ping) {
      if (this.#ready) return;
      this.#ready = true;
      for (const waiting of [...this.#waiting]) waiting.go();
    } else if (kind === frameKinds.end) this.#told(decodeGoodbye(head));
    else throw new AppError(`a frame of kind ${kind} where a sign of life is due`, { code: "InvalidFrame" });
  }

  #told(why: Goodbye): void {
    if (why.code === behindCode) {
      this.#again(why.message);
      return;
    }
    if (why.code === leftCode) this.#owner.left(this.#rank, false, lostRank(this.#rank, why.message));
    else this.#owner.lost(new AppError(why.message, { code: why.code, operation: `hearing of rank ${this.#rank}` }));
  }

  #say(kind: RawFrame["kind"], head: Uint8Array): void {
    this.#frames?.write({ kind, head, body: none });
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
