// Heads of frames that carry a prompt's queries, keys and values of some attention heads; the answer is the attention's output.
import { AppError } from "../../crds/common.ts";

export interface HeadsFrame {
  /** Unique among the unanswered frames of the connection. */
  readonly seq: number;
  readonly layer: number;
  /** The sender's prompt, which begins at position 0. */
  readonly session: number;
  readonly past: number;
  readonly tokens: number;
  /** Heads of keys and values in the body: f32 queries [tokens, width], keys and values, all LE. */
  readonly kvHeads: number;
}

const fields = ["seq", "layer", "session", "past", "tokens", "kvHeads"] as const;
const headBytes = 4 * fields.length;

/** Each field as u32 LE. */
export function encodeHeadsFrame(frame: HeadsFrame): Uint8Array {
  const view = new DataView(new ArrayBuffer(headBytes));
  for (const [i, name] of fields.entries()) view.setUint32(4 * i, frame[name], true);
  return new Uint8Array(view.buffer);
}

/** Throws `InvalidFrame`; it does not know the model. */
export function decodeHeadsFrame(head: Uint8Array): HeadsFrame {
  if (head.byteLength !== headBytes) {
    throw new AppError(`head: ${head.byteLength} bytes, not ${headBytes}`, { code: "InvalidFrame", operation: "reading a frame" });
  }
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const [seq, layer, session, past, tokens, kvHeads] = fields.map((_, i) => view.getUint32(4 * i, true)) as [
    ...[number, number, number],
    ...[number, number, number],
  ];
  return { seq, layer, session, past, tokens, kvHeads };
}
