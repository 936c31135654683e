// lfu: the expert with the fewest uses leaves first, old uses fading.
import type { EvictionKind } from "./eviction.ts";

/** Uses of an average unit after which a use counts half. */
const halfLifeUses = 2;
/** Weights of uses grow instead of those of older ones falling, until they are scaled down by this power of two. */
const powerMost = 500;

export const lfu: EvictionKind = {
  about: "least frequently used, old uses fading",
  create({ grid }) {
    const units = grid.layers * grid.experts;
    const worth = new Float64Array(units);
    const halfLife = halfLifeUses * units;
    let all = 0;
    let clock = 0;
    return {
      use(unit) {
        clock += 1;
        if (clock > powerMost * halfLife) {
          for (let i = 0; i < units; i++) worth[i] = (worth[i] as number) * 2 ** -powerMost;
          all *= 2 ** -powerMost;
          clock = 0;
        }
        const weight = 2 ** (clock / halfLife);
        worth[unit] = (worth[unit] as number) + weight;
        all += weight;
      },
      /** The unit's part of all uses, old ones fading. */
      worth: (unit) => (all > 0 ? (worth[unit] as number) / all : 0),
    };
  },
};
