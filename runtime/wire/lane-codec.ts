// The heads of the frames on a lane, the connection between two ranks' engine threads: who opens it, what is asked, what is answered.
// Fixed fields and arrays in LE, since a message of protobuf takes as long to read as the rows to encrypt. A frame's head is
// u32 seq, u32 layer, f64 epoch, u32 flags, u32 pairs, u16 row of each pair, u16 expert of each pair. Pure.
import { AppError } from "../../crds/common.ts";

/** The largest row or expert that a frame on a lane can name. */
export const laneIndexMax = 0xffff;
/** Pairs of one frame: as many as a head has room for, and no more than rows can be answered. */
export const lanePairsMax = 65_536;
const frameHeadBytes = 24;
const decodeFlag = 1;

export interface LaneFrame {
  /** Unique among those that wait for an answer on the lane. */
  readonly seq: number;
  readonly layer: number;
  readonly epoch: number;
  readonly decode: boolean;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
}

export function encodeLaneFrame({ seq, layer, epoch, decode, pairRows, pairExperts }: LaneFrame): Uint8Array {
  const pairs = pairRows.length;
  const head = new Uint8Array(frameHeadBytes + 4 * pairs);
  const view = new DataView(head.buffer);
  view.setUint32(0, seq, true);
  view.setUint32(4, layer, true);
  view.setFloat64(8, epoch, true);
  view.setUint32(16, decode ? decodeFlag : 0, true);
  view.setUint32(20, pairs, true);
  for (let i = 0; i < pairs; i++) {
    view.setUint16(frameHeadBytes + 2 * i, pairRows[i] as number, true);
    view.setUint16(frameHeadBytes + 2 * (pairs + i), pairExperts[i] as number, true);
  }
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
  if (flags > decodeFlag) throw invalid(`flags: ${flags}`);
  if (pairs === 0 || pairs > lanePairsMax) throw invalid(`pairs: ${pairs}, from 1 to ${lanePairsMax}`);
  if (head.byteLength !== frameHeadBytes + 4 * pairs) throw invalid(`head: ${head.byteLength} bytes for ${pairs} pairs`);
  const pairRows = new Uint32Array(pairs);
  const pairExperts = new Uint32Array(pairs);
  for (let i = 0; i < pairs; i++) {
    pairRows[i] = view.getUint16(frameHeadBytes + 2 * i, true);
    pairExperts[i] = view.getUint16(frameHeadBytes + 2 * (pairs + i), true);
  }
  return { seq: view.getUint32(0, true), layer: view.getUint32(4, true), epoch, decode: flags === decodeFlag, pairRows, pairExperts };
}

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
