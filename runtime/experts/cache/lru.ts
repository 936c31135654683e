// lru: the expert whose last use is the longest ago leaves first.
import type { EvictionKind } from "./eviction.ts";

export const lru: EvictionKind = {
  about: "least recently used",
  create({ grid }) {
    const usedAt = new Float64Array(grid.layers * grid.experts);
    let clock = 0;
    return {
      use(unit) {
        clock += 1;
        usedAt[unit] = clock;
      },
      worth: (unit) => usedAt[unit] as number,
    };
  },
};
