// Plans the scratch memory of a graph: each value has a place from the step that writes it to its last reader.

/** The alignment on devices that need no more. */
export const arenaAlignment = 64;

/** A value that needs memory during steps `from` to `to`, inclusive. */
export interface Lifetime {
  readonly bytes: number;
  readonly from: number;
  readonly to: number;
}

export interface ArenaPlan {
  /** Byte offsets in the given order. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

interface Place {
  readonly start: number;
  readonly end: number;
}

/** A value that lives longer gets a place of its own. */
const longLife = 128;

/** First fit, largest values first. */
export function planArena(values: readonly Lifetime[], alignment = arenaAlignment): ArenaPlan {
  const offsets = new Array<number>(values.length).fill(0);
  const placed = new Map<number, Place[]>();
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
