// next-use: the expert leaves first whose next use is expected last, since layers come one after another and each in the next step again.
// It is belady with chances for the future (../DECISIONS.md 9).
import type { EvictionKind } from "./eviction.ts";

/** Passes of a layer after which a use of one of its experts counts half. */
const halfLifePasses = 12;
const fading = 2 ** (-1 / halfLifePasses);
/** Passes that are taken for granted, in every other one of which an expert was used. */
const granted = 1e-3;

export const nextUse: EvictionKind = {
  about: "the next use is expected last, by layers ahead and chances",
  create({ grid: { layers, experts } }) {
    const uses = new Float64Array(layers * experts);
    const passes = new Float64Array(layers);
    const seen = new Set<number>();
    let layer = 0;
    return {
      use(unit) {
        const of = Math.floor(unit / experts);
        if (of !== layer || seen.has(unit) || seen.size === 0) {
          layer = of;
          seen.clear();
          passes[of] = (passes[of] as number) * fading + 1;
          for (let at = of * experts; at < (of + 1) * experts; at++) uses[at] = (uses[at] as number) * fading;
        }
        seen.add(unit);
        uses[unit] = (uses[unit] as number) + 1;
      },
      /** In uses a step. */
      worth(unit, chance = 0) {
        const of = Math.floor(unit / experts);
        const ahead = of > layer ? of - layer : of - layer + layers;
        const often = ((uses[unit] as number) + granted / 2) / ((passes[of] as number) + granted);
        return 1 / (ahead / layers + 1 / Math.max(often, chance) - 1);
      },
    };
  },
};
