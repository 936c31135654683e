// The plan of one scratch memory for the values of a graph: each has a place from the step that writes it to the last that reads it.

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

interface Place {
  readonly start: number;
  readonly end: number;
}

/** A value that lives for more steps has a place that it shares with none. */
const longLife = 128;

/** First fit, largest values first. */
export function planArena(values: readonly Lifetime[], alignment = arenaAlignment): ArenaPlan {
  const offsets = new Array<number>(values.length).fill(0);
  const placed = new Map<number, Place[]>(); // by step
  const order = values.map((_, i) => i).sort((a, b) => (values[b] as Lifetime).bytes - (values[a] as Lifetime).bytes || a - b);
  let kept = 0;
  let most = 0;
  for (const i of order) {
    const { bytes, from, to } = values[i] as Lifetime;
    const size = Math.ceil(bytes / alignment) * alignment;
    if (to - from > longLife) {
      offsets[i] = kept;
      kept += size;
      continue;
    }
    const neighbours = new Set<Place>();
    for (let step = from; step <= to; step++) for (const place of placed.get(step) ?? []) neighbours.add(place);
    let start = 0;
    for (const other of [...neighbours].sort((a, b) => a.start - b.start)) {
      if (other.start - start >= size) break;
      start = Math.max(start, other.end);
    }
    offsets[i] = start;
    const own = { start, end: start + size };
    most = Math.max(most, own.end);
    for (let step = from; step <= to; step++) {
      const living = placed.get(step);
      if (living === undefined) placed.set(step, [own]);
      else living.push(own);
    }
  }
  const others = (i: number): number => ((values[i] as Lifetime).to - (values[i] as Lifetime).from > longLife ? 0 : kept);
  return { offsets: offsets.map((offset, i) => offset + others(i)), bytes: kept + most };
}
