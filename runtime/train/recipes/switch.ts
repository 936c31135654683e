// switch: the loss of Switch Transformers: rate x experts x sum of f x P over experts, f an expert's part of all rows, P the mean of
// its shares. A balanced layer has the loss `rate`.
import { aboveZero, type Recipe, sumOf } from "./recipe.ts";

export const switchLoss: Recipe = {
  option: "balance",
  numbers: { rate: aboveZero(1) },
  loss({ rows, topK }, { rate = 0 }) {
    const all = sumOf(rows);
    const tokens = all / topK;
    return Float64Array.from(rows, (count) => (rate * rows.length * count) / all / tokens);
  },
};
