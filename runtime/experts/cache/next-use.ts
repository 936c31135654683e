// next-use: the expert leaves first whose next use is expected last, since layers come one after another and each in the next step again.
// It is belady with chances for the future (../DECISIONS.md 9).
import type { EvictionKind } from "./eviction.ts";

/** Steps after which a use counts half. */
const halfLifeSteps = 12;
const fading = 2 ** (-1 / halfLifeSteps);
/** Steps that are taken for granted, in every other one of which an expert was used. */
const granted = 1e-3;

export const nextUse: EvictionKind = {
  about: "the next use is expected last, by layers ahead and chances",
  create({ grid: { layers, experts } }) {
    const uses = new Float64Array(layers * experts);
    const usedIn = new Float64Array(layers * experts);
    const seen = new Set<number>();
    let [layer, step] = [0, 0];
    const usesOf = (unit: number): number => (uses[unit] as number) * fading ** (step - (usedIn[unit] as number));
    return {
      use(unit) {
        const of = Math.floor(unit / experts);
        if (of < layer || seen.has(unit)) step++; // A rank may have no expert of a layer that a step chose, so layers count no steps.
        if (of !== layer || seen.has(unit)) seen.clear();
        layer = of;
        seen.add(unit);
        uses[unit] = usesOf(unit) + 1;
        usedIn[unit] = step;
      },
      /** In uses a step. */
      worth(unit, chance = 0) {
        const of = Math.floor(unit / experts);
        const ahead = of > layer ? of - layer : of - layer + layers;
        const steps = (1 - fading ** (step + 1)) / (1 - fading);
        const often = (usesOf(unit) + granted / 2) / (steps + granted);
        return 1 / (ahead / layers + 1 / Math.max(often, chance) - 1);
      },
    };
  },
};
