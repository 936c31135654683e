// device: DeepSeek's loss of devices, which asks for balance between groups of experts alone: rate x sum of f x P over groups, f the mean
// in the group of what balance would make 1, P the sum of its experts' mean shares. Groups of one expert make it `switch`. Pure.
import { aboveZero, type Recipe, sumOf, whole } from "./recipe.ts";

const groupsMax = 4096;

export const deviceLoss: Recipe = {
  option: "balance",
  /** `groups`: of neighbouring experts, all of one size. */
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
