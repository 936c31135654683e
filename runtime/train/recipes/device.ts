// device: DeepSeek's loss of devices, which asks for balance between groups of experts alone: rate x sum of f x P over groups, f the mean
// in the group of what balance would make 1, P the sum of its experts' mean shares. Groups of one expert make it `switch`. Pure.
import { type BalanceRecipe, sumOf } from "./balance.ts";

export const deviceLoss: BalanceRecipe = {
  grouped: true,
  slopes({ rows, topK }, { rate, groups = rows.length }) {
    const all = sumOf(rows);
    const tokens = all / topK;
    const size = rows.length / groups;
    return Float64Array.from(rows, (_, expert) => {
      const first = Math.floor(expert / size) * size;
      return (rate * groups * sumOf(rows.slice(first, first + size))) / all / tokens;
    });
  },
};
