// belady: the expert whose next use is farthest leaves first: the fewest misses that any eviction can have without prefetch. A bound, since
// only a replay knows the future.
import { AppError } from "../../../crds/common.ts";
import type { EvictionKind } from "./eviction.ts";

export const belady: EvictionKind = {
  about: "the next use is farthest: the bound",
  offline: true,
  create({ grid, uses }) {
    if (uses === undefined) throw new AppError("belady needs all uses ahead, which only a replay knows", { code: "BadOption" });
    const units = grid.layers * grid.experts;
    const next = new Float64Array(units).fill(Number.POSITIVE_INFINITY);
    /** behind[i] = the next use of the unit that use i is of. */
    const behind = new Float64Array(uses.length);
    for (let i = uses.length - 1; i >= 0; i--) {
      const unit = uses[i] as number;
      behind[i] = next[unit] as number;
      next[unit] = i;
    }
    let at = 0;
    return {
      use(unit) {
        if (uses[at] !== unit) throw new AppError(`use ${at} is of unit ${unit}, and not of ${uses[at]}`, { code: "InvalidTrace" });
        next[unit] = behind[at++] as number;
      },
      worth: (unit) => -(next[unit] as number),
    };
  },
};
