// Recipes of balance between the experts of a layer: losses by the shares of experts, and a bias of their choice.
import { aboveZero, type Recipe, sumOf, whole } from "./recipe.ts";

const groupsMax = 4096;

export const balance = {
  /**
   * Switch Transformers: rate x experts x sum of f x P over experts, f an expert's part of all rows, P the mean of its shares. A balanced
   * layer has the loss `rate`.
   */
  switch: {
    option: "balance",
    numbers: { rate: aboveZero(1) },
    loss({ rows, topK }, { rate = 0 }) {
      const all = sumOf(rows);
      const tokens = all / topK;
      return Float64Array.from(rows, (count) => (rate * rows.length * count) / all / tokens);
    },
  },
  /**
   * DeepSeek's balance between groups of adjacent experts, all of one size: rate x sum of f x P over groups, f the group's mean of
   * relative rows, P the sum of its experts' mean shares. Groups of one expert make it `switch`.
   */
  device: {
    option: "balance",
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
  },
  /**
   * Balance without a loss (Wang et al., 2024; DeepSeek-V3): after each step the selection bias of an expert moves by `rate`, up if it had
   * fewer rows than the mean. Gates and gradients ignore it.
   */
  bias: {
    option: "balance",
    numbers: { rate: aboveZero(1) },
    bias({ rows }, { rate = 0 }) {
      const mean = sumOf(rows) / rows.length;
      return Float64Array.from(rows, (count) => rate * Math.sign(mean - count));
    },
  },
} as const satisfies Readonly<Record<string, Recipe>>;
