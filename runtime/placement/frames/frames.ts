// Frames of expert work as plain arrays: cutting them by pairs and size, and validation.
import { type ExpertGrid, expertsIn } from "../grid.ts";
import { type Pairs, selectPairs } from "./pairs.ts";

/** A part of a frame; with all pairs (ascending and distinct) the frame itself. */
export function partOf(frame: Pairs, hidden: number, pairs: readonly number[]): Pairs {
  return pairs.length === frame.pairExperts.length ? frame : selectPairs(frame, hidden, pairs);
}

/** Cuts pairs so that neither request nor answer rows pass bytesMax. One pair always fits. */
export function splitPairs(pairs: readonly number[], hidden: number, bytesMax: number): number[][] {
  const perFrame = Math.max(1, Math.floor(bytesMax / (hidden * 4)));
  const parts: number[][] = [];
  for (let i = 0; i < pairs.length; i += perFrame) parts.push(pairs.slice(i, i + perFrame));
  return parts;
}

export interface FrameShape {
  readonly layer: number;
  readonly hidden: number;
  readonly rowBytes: number;
  readonly pairRows: readonly number[] | Uint32Array;
  readonly pairExperts: readonly number[] | Uint32Array;
}

function answerBytes(pairs: number, hidden: number): number {
  return pairs * hidden * 4;
}

/** Why the answer is too large to send; undefined when it is not. One pair always fits. */
export function answerFault(pairs: number, hidden: number, bytesMax: number): string | undefined {
  const bytes = answerBytes(pairs, hidden);
  return bytes <= bytesMax || pairs <= 1 ? undefined : `pair_rows: the answer to ${pairs} pairs has ${bytes} bytes, more than ${bytesMax}`;
}

/** Why a frame is malformed, naming the field; undefined when it is valid. */
export function frameFault(frame: FrameShape, model: ExpertGrid & { readonly hidden: number }): string | undefined {
  if (frame.layer >= model.layers) return `layer: ${frame.layer} of ${model.layers}`;
  if (frame.hidden !== model.hidden) return `hidden: ${frame.hidden}, the model has ${model.hidden}`;
  if (frame.rowBytes % (frame.hidden * 4) !== 0) return `rows: ${frame.rowBytes} bytes are no whole rows of ${frame.hidden} f32`;
  const rows = frame.rowBytes / (frame.hidden * 4);
  if (frame.pairRows.length !== frame.pairExperts.length) return "pair_rows and pair_experts differ in length";
  const experts = expertsIn(model, frame.layer);
  if (frame.pairRows.length > rows * experts) return `pair_rows: ${frame.pairRows.length} pairs for ${rows} rows`;
  if (frame.pairRows.some((row) => row >= rows)) return `pair_rows: names a row beyond ${rows}`;
  if (frame.pairExperts.some((expert) => expert >= experts)) return `pair_experts: names an expert beyond ${experts}`;
  return undefined;
}
