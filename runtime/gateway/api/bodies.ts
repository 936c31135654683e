// Reads bodies of requests into bounded memory: a sum for all, and a pace for each (DECISIONS.md 9).
import type { IncomingMessage } from "node:http";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Problem, problems } from "../problem.ts";
import { retryAfterSeconds } from "../routing/admission.ts";
import { ByteShares, smallBytesMax } from "../routing/byte-shares.ts";

const mebibyte = 1024 * 1024;
const bodyBytesMax = 8 * mebibyte;
/** All bodies together, from their headers until their prompts are tokens. */
const bytesMax = 32 * mebibyte;
/** A body without a length takes so much at first. */
const firstBytes = 64 * 1024;
const none = Buffer.alloc(0);
const paceLookMs = 1_000;
/** Where the sum is full, the pace counts from here on. */
const paceFullMs = 250;

/** After so many bytes, and so long after the last, garbage is collected: an idle process would keep it. */
const collectedBytes = 16 * mebibyte;
const collectAfterMs = 5_000;
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

export interface BodyPace {
  /** A body that takes longer gives way to others where the sum is full, and is held to `bytesPerSecond`. */
  readonly graceMs: number;
  readonly bytesPerSecond: number;
}
const usualPace: BodyPace = { graceMs: 5_000, bytesPerSecond: 16 * 1024 };

interface Held {
  readonly client: string;
  readonly since: number;
  bytes: number;
  /** So many of them have come. */
  size: number;
  end(read: Read): void;
}

interface Body {
  readonly bytes: Uint8Array;
  /** Gives its share of the sum back. Idempotent. */
  leave(): void;
}

export type Read = Body | { readonly problem: Problem } | { readonly gone: true };

export class Bodies {
  readonly #pace: BodyPace;
  /** Oldest first. */
  readonly #reading = new Set<Held>();
  readonly #shares = new ByteShares(bytesMax);
  /** Since the last collection. */
  #seenBytes = 0;
  #collection: NodeJS.Timeout | undefined;

  constructor(pace: BodyPace = usualPace) {
    this.#pace = pace;
  }

  /** Refuses before a byte is read where that is known from the headers. */
  async read(request: IncomingMessage, client = ""): Promise<Read> {
    if (request.destroyed) return { gone: true };
    const { "content-length": length = "0", "transfer-encoding": encoding } = request.headers;
    const claimed = encoding === undefined ? Number(length) : firstBytes;
    if (claimed > bodyBytesMax) return { problem: problems.tooLarge(bodyBytesMax) };
    this.#seen(claimed);
    const of = client || (request.socket.remoteAddress ?? "");
    const held: Held = { client: of, since: performance.now(), bytes: 0, size: 0, end: () => {} };
    if (!this.#hold(held, claimed)) return { problem: problems.bodiesFull(retryAfterSeconds) };
    return this.#readAll(request, held, claimed);
  }

  /** Counts bytes that came another way until it is called back; undefined where there is no room. */
  hold(bytes: number, client: string): (() => void) | undefined {
    const held: Held = { client, since: performance.now(), bytes: 0, size: bytes, end: () => {} };
    return this.#hold(held, bytes) ? () => this.#leave(held) : undefined;
  }

  #readAll(request: IncomingMessage, held: Held, claimed: number): Promise<Read> {
    let buffer = Buffer.allocUnsafeSlow(claimed);
    return new Promise((resolve) => {
      const take = (chunk: Buffer): void => {
        const wanted = held.size + chunk.length;
        if (wanted > claimed) this.#seen(chunk.length);
        if (wanted > bodyBytesMax) return void held.end({ problem: problems.tooLarge(bodyBytesMax) });
        if (wanted > buffer.length) {
          const grown = Math.min(bodyBytesMax, Math.max(wanted, 2 * buffer.length));
          if (!this.#hold(held, grown)) return void held.end({ problem: problems.bodiesFull(retryAfterSeconds) });
          buffer = Buffer.concat([buffer.subarray(0, held.size)], grown);
        }
        chunk.copy(buffer, held.size);
        held.size = wanted;
      };
      const leave = () => {
        this.#leave(held);
        if (buffer !== none) buffer.buffer.transfer(0); // gives its memory back now and not at some collection
        buffer = none;
      };
      const ended = () => held.end({ bytes: buffer.subarray(0, held.size), leave });
      const gone = () => held.end({ gone: true });
      const look = setInterval(() => {
        if (this.#isSlow(held, performance.now() - held.since - this.#pace.graceMs)) held.end({ problem: problems.slowBody() });
      }, paceLookMs);
      held.end = (read) => {
        clearInterval(look);
        this.#reading.delete(held);
        if (!("bytes" in read)) leave();
        request.off("data", take).off("end", ended).off("close", gone).pause();
        resolve(read);
      };
      this.#reading.add(held);
      request
        .on("data", take)
        .on("end", ended)
        .on("close", gone)
        .on("error", () => {});
    });
  }

  #isSlow({ size }: Held, ms: number): boolean {
    return ms > 0 && size < (ms / 1000) * this.#pace.bytesPerSecond;
  }

  /** Where the sum is full, the oldest of those beyond their grace, or slower than the pace within it, give way. */
  #hold(held: Held, bytes: number): boolean {
    const { client } = held;
    const fits = () => this.#shares.fits(client, bytes, held.bytes);
    for (const other of this.#reading) {
      if (fits()) break;
      if (!this.#shares.isWithinShare(client, bytes, held.bytes) && other.client !== client) continue;
      const ms = performance.now() - other.since;
      const stays = ms < this.#pace.graceMs && !(ms > paceFullMs && this.#isSlow(other, ms));
      if (other === held || stays) continue;
      other.end({ problem: problems.slowBody() });
    }
    if (!fits()) return false;
    this.#resize(held, bytes);
    return true;
  }

  #seen(bytes: number): void {
    this.#seenBytes += bytes;
    if (this.#seenBytes < collectedBytes || (this.#collection && bytes <= smallBytesMax)) return; // small ones put nothing off
    this.#collection ??= setTimeout(() => {
      this.#collection = undefined;
      this.#seenBytes = 0;
      collect();
    }, collectAfterMs).unref();
    this.#collection.refresh();
  }

  #leave(held: Held): void {
    this.#resize(held, 0);
  }

  #resize(held: Held, bytes: number): void {
    this.#shares.add(held.client, bytes - held.bytes);
    held.bytes = bytes;
  }
}
