// The plan of one scratch memory for the values of a graph: each has a place from the step that writes it to the last that reads it.
// Places of values that never live at the same time overlap, so the memory needed does not grow with the number of steps. Pure.

/** Addresses within a buffer are multiples of so many bytes, on devices that want no more. */
export const arenaAlignment = 64;

/** A value that needs memory while steps `from` to `to` run, both included. */
export interface Lifetime {
  readonly bytes: number;
  readonly from: number;
  readonly to: number;
}

export interface ArenaPlan {
  /** Where each value begins, in bytes, in the order given. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

/** First fit, largest values first; quadratic in the number of values: a layer has some tens, a prefill of 64 experts apart 320 (4 ms). */
export function planArena(values: readonly Lifetime[], alignment = arenaAlignment): ArenaPlan {
  const offsets = new Array<number>(values.length).fill(0);
  const placed: { readonly start: number; readonly end: number; readonly from: number; readonly to: number }[] = [];
  const order = values.map((_, i) => i).sort((a, b) => (values[b] as Lifetime).bytes - (values[a] as Lifetime).bytes || a - b);
  for (const i of order) {
    const { bytes, from, to } = values[i] as Lifetime;
    const size = Math.ceil(bytes / alignment) * alignment;
    const neighbours = placed.filter((other) => other.from <= to && from <= other.to).sort((a, b) => a.start - b.start);
    let start = 0;
    for (const other of neighbours) {
      if (other.start - start >= size) break;
      start = Math.max(start, other.end);
    }
    offsets[i] = start;
    placed.push({ start, end: start + size, from, to });
  }
  return { offsets, bytes: placed.reduce((most, { end }) => Math.max(most, end), 0) };
}
