// Heads of row frames between engines, and rows as halves. The fields are fixed LE, since parsing protobuf takes as long as encrypting the
// rows.

import { create, fromBinary, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { frameBytesMax, streamBytesMax } from "./frame-codec.ts";
import { DeclinedSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";

export const rowIndexMax = 0xffff;
export const framePairsMax = 65_536;
/** If both hellos name it, rows travel as halves and answers as gated sums. */
export const sumsForm = "f16";
export const pairBytesMax = (summed: boolean): number => (summed ? streamBytesMax / 2 : frameBytesMax);
const frameHeadBytes = 24;
const decodeFlag = 1;
const sumsFlag = 2;
const onDemandFlag = 4;
const tracedFlag = 8;
/** A W3C traceparent. */
const traceBytes = 55;

export interface RowsFrame {
  /** Unique among the unanswered frames of the connection. */
  readonly seq: number;
  readonly layer: number;
  readonly epoch: number;
  readonly decode: boolean;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
  /** Requests sums; undefined: f32 rows per pair. */
  readonly gates?: Float32Array | undefined;
  /** No host that the sender knows can serve: experts that are missing are loaded. */
  readonly onDemand?: boolean;
  readonly traceparent?: string | undefined;
}

/** An answer without rows. `rejected`: forged or malformed, never to be sent again. */
export type Declined =
  | { readonly type: "notHosted"; readonly epoch: number; readonly experts: readonly number[] }
  | { readonly type: "busy"; readonly afterMs: number }
  | { readonly type: "rejected"; readonly reason: string };

/** Rows or sums as bytes, or why there are none. */
export type RowsAnswer = Uint8Array | Declined;

/** u32 seq, u32 layer, f64 epoch, u32 flags, u32 pairs, u16 row per pair, u16 expert per pair, with sums f32 gate per pair, and traced the traceparent; all LE. */
export function encodeRowsFrame(frame: RowsFrame): Uint8Array {
  const { seq, layer, epoch, pairRows, pairExperts, gates, traceparent } = frame;
  const pairs = pairRows.length;
  const flags = flagsOf(frame);
  const head = new Uint8Array(headBytes(pairs, flags));
  const view = new DataView(head.buffer);
  view.setUint32(0, seq, true);
  view.setUint32(4, layer, true);
  view.setFloat64(8, epoch, true);
  view.setUint32(16, flags, true);
  view.setUint32(20, pairs, true);
  for (let i = 0; i < pairs; i++) {
    view.setUint16(frameHeadBytes + 2 * i, pairRows[i] as number, true);
    view.setUint16(frameHeadBytes + 2 * (pairs + i), pairExperts[i] as number, true);
  }
  for (let i = 0; i < pairs && gates; i++) view.setFloat32(frameHeadBytes + 4 * (pairs + i), gates[i] as number, true);
  if (flags & tracedFlag) head.set(Buffer.from(traceparent as string, "latin1"), head.byteLength - traceBytes);
  return head;
}

function flagsOf({ decode, gates, onDemand, traceparent }: RowsFrame): number {
  const traced = traceparent?.length === traceBytes ? tracedFlag : 0;
  return (decode ? decodeFlag : 0) | (gates ? sumsFlag : 0) | (onDemand ? onDemandFlag : 0) | traced;
}

/** Throws `InvalidFrame`, which names the field; it does not know the model. */
export function decodeRowsFrame(head: Uint8Array): RowsFrame {
  if (head.byteLength < frameHeadBytes) throw invalid(`head: ${head.byteLength} bytes of at least ${frameHeadBytes}`);
  const view = viewOf(head);
  const epoch = view.getFloat64(8, true);
  const flags = view.getUint32(16, true);
  const pairs = view.getUint32(20, true);
  if (!Number.isSafeInteger(epoch) || epoch < 0) throw invalid(`epoch: ${epoch}`);
  if (flags > (decodeFlag | sumsFlag | onDemandFlag | tracedFlag)) throw invalid(`flags: ${flags}`);
  if (pairs === 0 || pairs > framePairsMax) throw invalid(`pairs: ${pairs}, from 1 to ${framePairsMax}`);
  if (head.byteLength !== headBytes(pairs, flags)) throw invalid(`head: ${head.byteLength} bytes for ${pairs} pairs`);
  const pairRows = new Uint32Array(pairs);
  const pairExperts = new Uint32Array(pairs);
  for (let i = 0; i < pairs; i++) {
    pairRows[i] = view.getUint16(frameHeadBytes + 2 * i, true);
    pairExperts[i] = view.getUint16(frameHeadBytes + 2 * (pairs + i), true);
  }
  const [seq, layer, decode] = [view.getUint32(0, true), view.getUint32(4, true), (flags & decodeFlag) !== 0];
  const frame: Mutable<RowsFrame> = { seq, layer, epoch, decode, pairRows, pairExperts };
  if (flags & sumsFlag) frame.gates = Float32Array.from(pairRows, (_, i) => view.getFloat32(frameHeadBytes + 4 * (pairs + i), true));
  if (flags & onDemandFlag) frame.onDemand = true;
  if (flags & tracedFlag) frame.traceparent = Buffer.from(head.subarray(head.byteLength - traceBytes)).toString("latin1");
  return frame;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

const headBytes = (pairs: number, flags: number): number =>
  frameHeadBytes + (flags & sumsFlag ? 8 : 4) * pairs + (flags & tracedFlag ? traceBytes : 0);

export function encodeDeclined(seq: number, declined: Declined): Uint8Array {
  return toBinary(DeclinedSchema, create(DeclinedSchema, { seq, reason: reasonOf(declined) }));
}
function reasonOf(declined: Declined): NonNullable<MessageInitShape<typeof DeclinedSchema>["reason"]> {
  if (declined.type === "notHosted")
    return { case: "notHosted", value: { layerEpoch: BigInt(declined.epoch), experts: [...declined.experts] } };
  if (declined.type === "busy") return { case: "busy", value: { retryAfterMs: declined.afterMs } };
  return { case: "rejected", value: { reason: declined.reason } };
}

/** Throws `InvalidFrame`. */
export function decodeDeclined(head: Uint8Array): { readonly seq: number; readonly declined: Declined } {
  const { seq, reason } = parseDeclined(head);
  const { case: type, value } = reason;
  if (type === "notHosted") return { seq, declined: { type, epoch: Number(value.layerEpoch), experts: value.experts } };
  if (type === "busy") return { seq, declined: { type, afterMs: value.retryAfterMs } };
  return { seq, declined: { type: "rejected", reason: value?.reason ?? "it gives no reason" } };
}
function parseDeclined(head: Uint8Array): MessageShape<typeof DeclinedSchema> {
  try {
    return fromBinary(DeclinedSchema, head);
  } catch {
    throw invalid("a declined frame that is none");
  }
}

export function encodeSeq(seq: number): Uint8Array {
  const head = new Uint8Array(4);
  viewOf(head).setUint32(0, seq, true);
  return head;
}
export function decodeSeq(head: Uint8Array): number {
  if (head.byteLength !== 4) throw invalid(`head: ${head.byteLength} bytes of an answer, not 4`);
  return viewOf(head).getUint32(0, true);
}

const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array): DataView => new DataView(buffer, byteOffset, byteLength);
const invalid = (message: string): AppError => new AppError(message, { code: "InvalidFrame", operation: "reading a frame" });

// Rows as halves: f32 scale per row, then f16 values, all LE. Scales are powers of two, so that nothing overflows and small rows lose
// nothing.

export const halfRowBytes = (width: number): number => 4 + 2 * width;

const topExponent = 14;

/** The error is at most 2^-11 of a value, or 2^-39 of the row's largest. */
export function encodeHalfRows(data: Float32Array, width: number): Uint8Array {
  const rows = data.length / width;
  const bytes = new ArrayBuffer(rows * halfRowBytes(width));
  const scales = new Float32Array(bytes, 0, rows);
  const halves = new Float16Array(bytes, 4 * rows);
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length);
  for (let row = 0; row < rows; row++) {
    const [from, to] = [row * width, (row + 1) * width];
    const scale = 2 ** (exponentOf(words, from, to) - topExponent);
    scales[row] = scale;
    for (let i = from; i < to; i++) halves[i] = (data[i] as number) / scale;
  }
  return new Uint8Array(bytes);
}

function exponentOf(words: Uint32Array, from: number, to: number): number {
  let most = 0;
  for (let i = from; i < to; i++) {
    const size = (words[i] as number) & 0x7fffffff;
    if (size > most && size < 0x7f800000) most = size;
  }
  return Math.max(most >>> 23, 1) - 127;
}

export function decodeHalfRows(bytes: Uint8Array, width: number): Float32Array {
  const rows = Math.floor(bytes.byteLength / halfRowBytes(width));
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  const scales = new Float32Array(aligned.buffer, aligned.byteOffset, rows);
  const halves = new Float16Array(aligned.buffer, aligned.byteOffset + 4 * rows, rows * width);
  const data = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] as number;
    for (let i = row * width; i < (row + 1) * width; i++) data[i] = (halves[i] as number) * scale;
  }
  return data;
}
