// device: DeepSeek's loss for balance between groups of experts: rate x sum of f x P over groups, f the group's mean of relative rows,
// P the sum of its experts' mean shares. Groups of one expert make it `switch`.
import { aboveZero, type Recipe, sumOf, whole } from "./recipe.ts";

const groupsMax = 4096;

export const deviceLoss: Recipe = {
  option: "balance",
  /** `groups`: of adjacent experts, all of one size. */
  numbers: { rate: aboveZero(1), groups: whole(1, groupsMax) },
  loss({ rows, topK }, { rate = 0, groups = 1 }) {
    const all = sumOf(rows);
    const tokens = all / topK;
    const size = rows.length / groups;
    return Float64Array.from(rows, (_, expert) => {
      const first = Math.floor(expert / size) * size;
      return (rate * groups * sumOf(rows.slice(first, first + size))) / all / tokens;
    });
  },
};
