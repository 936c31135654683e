// bias: balance without a loss (Wang et al., 2024; DeepSeek-V3). After each step the selection bias of an expert moves by `rate`, up if
// it had fewer rows than the mean. Gates and gradients ignore it.
import { aboveZero, type Recipe, sumOf } from "./recipe.ts";

export const biasOfChoice: Recipe = {
  option: "balance",
  numbers: { rate: aboveZero(1) },
  bias({ rows }, { rate = 0 }) {
    const mean = sumOf(rows) / rows.length;
    return Float64Array.from(rows, (count) => rate * Math.sign(mean - count));
  },
};
