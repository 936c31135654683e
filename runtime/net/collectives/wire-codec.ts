// Heads of payloads between training ranks: fixed LE fields, then UTF-8 texts. Pure.
import { AppError } from "../../../crds/common.ts";
import type { FrameName, Payload, Stamp } from "./transport.ts";

/** An end waits for at most one chunk. */
export const chunkBytes = 1024 * 1024;
export const payloadBytesMax = 2 ** 30;
const textBytesMax = 255;
const chunkHeadBytes = 48;

const kinds = [Float32Array, Float64Array, Int32Array] as const;

export interface Hello {
  readonly job: string;
  readonly world: number;
  readonly rank: number;
  readonly ranks: number;
}

/** `bytes`: the whole payload; `at`: this chunk's offset. */
export interface ChunkHead {
  readonly stamp: Stamp;
  readonly name: FrameName;
  /** An index of `kinds`. */
  readonly kind: number;
  readonly bytes: number;
  readonly at: number;
}

export const kindOf = (payload: Payload): number => kinds.findIndex((kind) => payload instanceof kind);

/** `pieces` must be complete. */
export function payloadOf(kind: number, bytes: number, pieces: readonly Uint8Array[]): Payload {
  const all = new Uint8Array(bytes);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return new (kinds[kind] as (typeof kinds)[number])(all.buffer);
}

export function encodeChunk({ stamp, name, kind, bytes, at }: ChunkHead): Uint8Array {
  const [what, plan] = [text("what", name.what), text("plan", stamp.plan)];
  const head = new Uint8Array(chunkHeadBytes + what.byteLength + plan.byteLength);
  const view = viewOf(head);
  head.set([kind, what.byteLength, plan.byteLength]);
  for (const [i, value] of [name.layer, name.chunk, name.piece].entries()) view.setInt32(4 + 4 * i, value, true);
  for (const [i, value] of [stamp.world, stamp.step, bytes, at].entries()) view.setFloat64(16 + 8 * i, value, true);
  head.set(what, chunkHeadBytes);
  head.set(plan, chunkHeadBytes + what.byteLength);
  return head;
}

/** Throws `InvalidFrame`, which names the field; `bodyBytes` came with the head. */
export function decodeChunk(head: Uint8Array, bodyBytes: number): ChunkHead {
  if (head.byteLength < chunkHeadBytes) throw invalid(`head: ${head.byteLength} bytes of at least ${chunkHeadBytes}`);
  const view = viewOf(head);
  const [kind, whatBytes, planBytes] = head as unknown as [number, number, number];
  const size = kinds[kind]?.BYTES_PER_ELEMENT;
  const [world, step, bytes, at] = [0, 1, 2, 3].map((i) => whole(view, 16 + 8 * i)) as [number, number, number, number];
  if (size === undefined) throw invalid(`kind: ${kind}, of ${kinds.length}`);
  if (head.byteLength !== chunkHeadBytes + whatBytes + planBytes) throw invalid(`head: ${head.byteLength} bytes for its texts`);
  if (bytes > payloadBytesMax || bytes % size !== 0) throw invalid(`bytes: ${bytes}, in ${size}s up to ${payloadBytesMax}`);
  if (at % chunkBytes !== 0 || bodyBytes !== Math.min(chunkBytes, bytes - at)) throw invalid(`at: ${bodyBytes} bytes at ${at} of ${bytes}`);
  const planAt = chunkHeadBytes + whatBytes;
  const [layer, chunk, piece] = [4, 8, 12].map((offset) => view.getInt32(offset, true)) as [number, number, number];
  const name = { what: said(head.subarray(chunkHeadBytes, planAt)), layer, chunk, piece };
  return { stamp: { world, step, plan: said(head.subarray(planAt)) }, name, kind, bytes, at };
}

function text(field: string, value: string): Uint8Array {
  const bytes = Buffer.from(value);
  if (bytes.byteLength > textBytesMax) throw invalid(`${field}: ${bytes.byteLength} bytes, more than ${textBytesMax}`);
  return bytes;
}

function whole(view: DataView, offset: number): number {
  const value = view.getFloat64(offset, true);
  if (!Number.isSafeInteger(value) || value < 0) throw invalid(`a number ${value} where a whole one is due`);
  return value;
}

const said = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array): DataView => new DataView(buffer, byteOffset, byteLength);
const invalid = (message: string): AppError => new AppError(message, { code: "InvalidFrame", operation: "reading a frame of training" });
