// The heads of the frames on a lane, the connection between two ranks' engine threads: who opens it, what is asked, what is answered.
// Fixed fields and arrays in LE, since a message of protobuf takes as long to read as the rows to encrypt. A frame's head is
// u32 seq, u32 layer, f64 epoch, u32 flags, u32 pairs, u16 row of each pair, u16 expert of each pair, and f32 gate of each pair where
// sums are asked for. Pure.
import { AppError } from "../../crds/common.ts";
import { frameBytesMax, streamBytesMax } from "./frame-codec.ts";

/** The largest row or expert that a frame on a lane can name. */
export const laneIndexMax = 0xffff;
/** Pairs of one frame: as many as a head has room for, and no more than rows can be answered. */
export const lanePairsMax = 65_536;
/** The form of sums, by its name in the hellos of both ends: rows come and go as half-rows.ts has them, and each is answered with the sum
 *  of its pairs by their gates, computed in f32. */
export const sumsForm = "f16";
/** Bytes of the f32 rows that answer a frame's pairs, at most. Rows that are summed do not leave, and need no more room than a host has
 *  for several frames. */
export const pairBytesMax = (summed: boolean): number => (summed ? streamBytesMax / 2 : frameBytesMax);
const frameHeadBytes = 24;
const decodeFlag = 1;
const sumsFlag = 2;

export interface LaneFrame {
  /** Unique among those that wait for an answer on the lane. */
  readonly seq: number;
  readonly layer: number;
  readonly epoch: number;
  readonly decode: boolean;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
  /** Of each pair: sums are asked for, in `sumsForm`; undefined: f32 rows of pairs. */
  readonly gates?: Float32Array | undefined;
}

export function encodeLaneFrame({ seq, layer, epoch, decode, pairRows, pairExperts, gates }: LaneFrame): Uint8Array {
  const pairs = pairRows.length;
  const head = new Uint8Array(headBytes(pairs, gates !== undefined));
  const view = new DataView(head.buffer);
  view.setUint32(0, seq, true);
  view.setUint32(4, layer, true);
  view.setFloat64(8, epoch, true);
  view.setUint32(16, (decode ? decodeFlag : 0) | (gates ? sumsFlag : 0), true);
  view.setUint32(20, pairs, true);
  for (let i = 0; i < pairs; i++) {
    view.setUint16(frameHeadBytes + 2 * i, pairRows[i] as number, true);
    view.setUint16(frameHeadBytes + 2 * (pairs + i), pairExperts[i] as number, true);
  }
  for (let i = 0; i < pairs && gates; i++) view.setFloat32(frameHeadBytes + 4 * (pairs + i), gates[i] as number, true);
  return head;
}

/** Throws `InvalidFrame` for a head that is none, by the field. Whether the model has such rows and experts is not asked here. */
export function decodeLaneFrame(head: Uint8Array): LaneFrame {
  if (head.byteLength < frameHeadBytes) throw invalid(`head: ${head.byteLength} bytes of at least ${frameHeadBytes}`);
  const view = viewOf(head);
  const epoch = view.getFloat64(8, true);
  const flags = view.getUint32(16, true);
  const pairs = view.getUint32(20, true);
  if (!Number.isSafeInteger(epoch) || epoch < 0) throw invalid(`epoch: ${epoch}`);
  if (flags > (decodeFlag | sumsFlag)) throw invalid(`flags: ${flags}`);
  if (pairs === 0 || pairs > lanePairsMax) throw invalid(`pairs: ${pairs}, from 1 to ${lanePairsMax}`);
  const summed = (flags & sumsFlag) !== 0;
  if (head.byteLength !== headBytes(pairs, summed)) throw invalid(`head: ${head.byteLength} bytes for ${pairs} pairs`);
  const pairRows = new Uint32Array(pairs);
  const pairExperts = new Uint32Array(pairs);
  for (let i = 0; i < pairs; i++) {
    pairRows[i] = view.getUint16(frameHeadBytes + 2 * i, true);
    pairExperts[i] = view.getUint16(frameHeadBytes + 2 * (pairs + i), true);
  }
  const [seq, layer, decode] = [view.getUint32(0, true), view.getUint32(4, true), (flags & decodeFlag) !== 0];
  const frame = { seq, layer, epoch, decode, pairRows, pairExperts };
  if (!summed) return frame;
  return Object.assign(frame, { gates: Float32Array.from(pairRows, (_, i) => view.getFloat32(frameHeadBytes + 4 * (pairs + i), true)) });
}

const headBytes = (pairs: number, summed: boolean): number => frameHeadBytes + (summed ? 8 : 4) * pairs;

/** The head of an answer, given or declined. */
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
