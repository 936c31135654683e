// bias: balance without a loss (Wang et al., 2024; DeepSeek-V3). After each step the bias of an expert's choice rises by `rate` where it
// had fewer rows than the mean and falls by as much where it had more. Gates and gradients do not see it. Pure.
import { type BalanceRecipe, sumOf } from "./balance.ts";

export const biasOfChoice: BalanceRecipe = {
  grouped: false,
  bias({ rows }, { rate }) {
    const mean = sumOf(rows) / rows.length;
    return Float64Array.from(rows, (count) => rate * Math.sign(mean - count));
  },
};
