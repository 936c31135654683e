// Frames on a socket: u32 LE length of the rest, u32 with the kind in the low byte and the head's length above, the head,
// zeros up to a multiple of four, and the body. The kind says what head and body hold.
import { AppError } from "../../crds/common.ts";

/** Senders split larger ones, so that no frame blocks a stream for long. */
export const frameBytesMax = 8 * 1024 * 1024;
/** Answers included; receivers allow half as much again. */
export const streamBytesMax = 64 * 1024 * 1024;
/** Twice what the most pairs of a frame of rows need, at eight bytes each. */
export const headBytesMax = 1024 * 1024;
/** Copying this much is cheaper than a second write. */
const joinedBytesMax = 16 * 1024;
const prefixBytes = 8;

/** The first four belong to the protocol; `rows`, `reply` and `heads` to serving, `payload` to training, `read` and `chunk` to bulk reads. */
export const frameKinds = {
  hello: 1,
  welcome: 2,
  ping: 3,
  end: 4,
  rows: 5,
  reply: 6,
  declined: 7,
  payload: 8,
  read: 9,
  chunk: 10,
  heads: 11,
} as const;
type FrameKind = (typeof frameKinds)[keyof typeof frameKinds];

export interface RawFrame {
  readonly kind: FrameKind;
  readonly head: Uint8Array;
  readonly body: Uint8Array;
}

interface Layout {
  readonly kind: FrameKind;
  readonly headBytes: number;
  readonly bodyAt: number;
  /** The prefix is included. */
  readonly totalBytes: number;
}

/** Returns one piece or two. Throws `MessageTooLarge`. */
export function encodeFrame({ kind, head, body }: RawFrame): readonly [Uint8Array, Uint8Array?] {
  const fault = sizeFault(head.byteLength, body.byteLength);
  if (fault !== undefined) throw new AppError(fault, { code: "MessageTooLarge", operation: "writing a frame" });
  const bodyAt = prefixBytes + padded(head.byteLength);
  const joined = body.byteLength <= joinedBytesMax;
  const first = Buffer.allocUnsafe(bodyAt + (joined ? body.byteLength : 0));
  first.writeUInt32LE(bodyAt + body.byteLength - 4, 0);
  first.writeUInt32LE((head.byteLength * 256 + kind) >>> 0, 4);
  first.set(head, prefixBytes);
  first.fill(0, prefixBytes + head.byteLength, bodyAt);
  if (!joined) return [first, body];
  first.set(body, bodyAt);
  return [first];
}

/** Reads frames from arbitrary chunks (DECISIONS.md 5). After `InvalidFrame` it cannot continue. */
export class FrameReader {
  readonly #prefix = Buffer.alloc(prefixBytes);
  #prefixed = 0;
  #layout: Layout | undefined;
  #frame: Buffer = this.#prefix;
  #filled = 0;
  readonly #bytesMax: number;

  /** `bytesMax`: of a frame, where less is due than others may have. */
  constructor(bytesMax = Number.POSITIVE_INFINITY) {
    this.#bytesMax = bytesMax;
  }

  get within(): boolean {
    return this.#prefixed > 0;
  }

  push(chunk: Buffer, take: (frame: RawFrame) => void): void {
    for (let at = 0; at < chunk.byteLength; ) {
      const whole = this.#prefixed === 0 ? this.#layoutAt(chunk, at) : undefined;
      if (whole !== undefined && chunk.byteLength - at >= whole.totalBytes) {
        take(cut(chunk, at, whole));
        at += whole.totalBytes;
      } else {
        at += this.#layout === undefined ? this.#begin(chunk, at) : this.#fill(chunk, at, this.#layout);
        if (this.#layout !== undefined && this.#filled === this.#layout.totalBytes) take(this.#complete(this.#layout));
      }
    }
  }

  #begin(chunk: Buffer, at: number): number {
    const bytes = chunk.copy(this.#prefix, this.#prefixed, at, at + prefixBytes - this.#prefixed);
    this.#prefixed += bytes;
    const layout = this.#prefixed === prefixBytes ? this.#layoutAt(this.#prefix, 0) : undefined;
    if (layout === undefined) return bytes;
    this.#layout = layout;
    this.#frame = Buffer.allocUnsafeSlow(layout.totalBytes);
    this.#filled = prefixBytes;
    return bytes;
  }
  #layoutAt(bytes: Buffer, at: number): Layout | undefined {
    const layout = layoutAt(bytes, at);
    if (layout && layout.totalBytes > this.#bytesMax)
      throw invalid(`a frame of ${layout.totalBytes} bytes where ${this.#bytesMax} are enough`);
    return layout;
  }
  #fill(chunk: Buffer, at: number, { totalBytes }: Layout): number {
    const bytes = chunk.copy(this.#frame, this.#filled, at, at + totalBytes - this.#filled);
    this.#filled += bytes;
    return bytes;
  }

  #complete(layout: Layout): RawFrame {
    const frame = cut(this.#frame, 0, layout);
    this.#frame = this.#prefix;
    this.#layout = undefined;
    this.#prefixed = 0;
    return frame;
  }
}

function cut(bytes: Buffer, at: number, { kind, headBytes, bodyAt, totalBytes }: Layout): RawFrame {
  const head = bytes.subarray(at + prefixBytes, at + prefixBytes + headBytes);
  return { kind, head, body: bytes.subarray(at + bodyAt, at + totalBytes) };
}

/** Undefined while the prefix is incomplete. */
function layoutAt(bytes: Buffer, at: number): Layout | undefined {
  if (bytes.byteLength - at < prefixBytes) return undefined;
  const totalBytes = 4 + bytes.readUInt32LE(at);
  const word = bytes.readUInt32LE(at + 4);
  const [kind, headBytes] = [word & 0xff, word >>> 8];
  const bodyAt = prefixBytes + padded(headBytes);
  if (!isKind(kind)) throw invalid(`a frame of kind ${kind}, which is none`);
  if (totalBytes < bodyAt) throw invalid(`a frame of ${totalBytes} bytes with a head of ${headBytes}`);
  const fault = sizeFault(headBytes, totalBytes - bodyAt);
  if (fault !== undefined) throw invalid(fault);
  return { kind, headBytes, bodyAt, totalBytes };
}

function sizeFault(headBytes: number, bodyBytes: number): string | undefined {
  if (headBytes > headBytesMax) return `a frame's head of ${headBytes} bytes, more than ${headBytesMax}`;
  return bodyBytes > frameBytesMax ? `a frame's rows of ${bodyBytes} bytes, more than ${frameBytesMax}` : undefined;
}

const padded = (bytes: number): number => (bytes + 3) & ~3;
const isKind = (kind: number): kind is FrameKind => Object.values<number>(frameKinds).includes(kind);
const invalid = (message: string): AppError => new AppError(message, { code: "InvalidFrame", operation: "reading a frame" });
