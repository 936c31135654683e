// What each rank's own tokens choose, summed over windows with the older ones counting less. Pure.
import type { ClosedWindow } from "./windows.ts";

/** What is left of a window's counts after the next one. */
const kept = 0.7;
/** Windows for which the counts of a rank stand that is not heard. */
const unheardMost = 8;

interface Counted {
  readonly counts: Float32Array;
  readonly unheard: number;
}

export class SourceLoad {
  #byBoot: ReadonlyMap<string, Counted> = new Map();

  observe({ ranks, routedBy }: Pick<ClosedWindow, "ranks" | "routedBy">): void {
    const sums = new Map<string, Counted>();
    for (const [bootId, { counts, unheard }] of this.#byBoot) if (unheard < unheardMost) sums.set(bootId, { counts, unheard: unheard + 1 });
    for (const [g, { bootId }] of ranks.entries()) {
      const counts = routedBy?.[g] ?? new Float32Array(0);
      const before = this.#byBoot.get(bootId)?.counts;
      if (counts.length > 0) sums.set(bootId, { counts: before ? counts.map((n, i) => n + kept * (before[i] ?? 0)) : counts, unheard: 0 });
    }
    this.#byBoot = sums;
  }

  /** By rank; undefined unless every one of them is known. */
  of(ranks: ClosedWindow["ranks"]): ReadonlyMap<number, Float32Array> | undefined {
    const known = ranks.flatMap(({ rank, bootId }) => {
      const counted = this.#byBoot.get(bootId);
      return counted ? [[rank, counted.counts] as const] : [];
    });
    return known.length === ranks.length && known.length > 0 ? new Map(known) : undefined;
  }

  clear(): void {
    this.#byBoot = new Map();
  }
}
