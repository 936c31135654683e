// Frames of expert work as plain arrays: choosing pairs, splitting by size, putting results back, and checking what a peer sent.
// Pure; the wire's messages meet it in dispatch-client.ts and dispatch-server.ts.

/** Expert work: rows [n, hidden]; pair i = (row pairRows[i], expert pairExperts[i]). */
export interface Work {
  readonly rows: Float32Array;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
}

/** The part of a frame made of these pairs (indexes into it), with only the rows that they use. */
export function selectPairs(work: Work, hidden: number, pairs: readonly number[]): Work {
  if (pairs.length === work.pairExperts.length) return work; // indexes are ascending and distinct: that is all of it
  const rowOf = new Map<number, number>();
  const pairRows = new Uint32Array(pairs.length);
  const pairExperts = new Uint32Array(pairs.length);
  pairs.forEach((pair, i) => {
    const row = work.pairRows[pair] ?? 0;
    const at = rowOf.get(row) ?? rowOf.size;
    rowOf.set(row, at);
    pairRows[i] = at;
    pairExperts[i] = work.pairExperts[pair] ?? 0;
  });
  const rows = new Float32Array(rowOf.size * hidden);
  for (const [row, at] of rowOf) rows.set(work.rows.subarray(row * hidden, (row + 1) * hidden), at * hidden);
  return { rows, pairRows, pairExperts };
}

/** Writes result rows [pairs.length, hidden] to where their pairs belong in the whole answer. */
export function scatter(out: Float32Array, hidden: number, pairs: readonly number[], rows: Float32Array): void {
  if (pairs.length * hidden === out.length) out.set(rows);
  else pairs.forEach((pair, i) => void out.set(rows.subarray(i * hidden, (i + 1) * hidden), pair * hidden));
}

/** Cuts pairs so that neither the rows sent nor the rows answered pass bytesMax. One pair always fits. */
export function splitPairs(pairs: readonly number[], hidden: number, bytesMax: number): number[][] {
  const perFrame = Math.max(1, Math.floor(bytesMax / (hidden * 4)));
  const parts: number[][] = [];
  for (let i = 0; i < pairs.length; i += perFrame) parts.push(pairs.slice(i, i + perFrame));
  return parts;
}

/** Bytes of a message as f32; copies only when the slice is not aligned. */
export function floatsOf(bytes: Uint8Array): Float32Array {
  if (bytes.byteOffset % 4 === 0) return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
  const copy = new Uint8Array(bytes.byteLength);
  copy.set(bytes);
  return new Float32Array(copy.buffer);
}

export function bytesOf(floats: Float32Array): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

export interface FrameShape {
  readonly layer: number;
  readonly hidden: number;
  readonly rowBytes: number;
  readonly pairRows: readonly number[];
  readonly pairExperts: readonly number[];
}

/** Why a frame is malformed, naming the field; undefined when it is sound. */
export function frameFault(frame: FrameShape, model: { layers: number; experts: number; hidden: number }): string | undefined {
  if (frame.layer >= model.layers) return `layer: ${frame.layer} of ${model.layers}`;
  if (frame.hidden !== model.hidden) return `hidden: ${frame.hidden}, the model has ${model.hidden}`;
  if (frame.rowBytes % (frame.hidden * 4) !== 0) return `rows: ${frame.rowBytes} bytes are no whole rows of ${frame.hidden} f32`;
  const rows = frame.rowBytes / (frame.hidden * 4);
  if (frame.pairRows.length !== frame.pairExperts.length) return "pair_rows and pair_experts differ in length";
  if (frame.pairRows.length > rows * model.experts) return `pair_rows: ${frame.pairRows.length} pairs for ${rows} rows`;
  if (frame.pairRows.some((row) => row >= rows)) return `pair_rows: names a row beyond ${rows}`;
  if (frame.pairExperts.some((expert) => expert >= model.experts)) return `pair_experts: names an expert beyond ${model.experts}`;
  return undefined;
}
