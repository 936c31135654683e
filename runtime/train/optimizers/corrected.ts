// An optimizer whose gradients a recipe corrects. The recipe's arrays are part of the optimizer's state.
import type { Numbers, Recipe } from "../recipes/recipe.ts";
import type { Arrays, Optimizer } from "./optimizer.ts";
import { add, mul } from "./wasm.ts";

/** Clipping applies to the gradient without its correction, so it is done here and the optimizer gets 1. */
const ownClip = "ownClip";

export function corrected(optimizer: Optimizer, correction: NonNullable<Recipe["correction"]>, numbers: Numbers): Optimizer {
  const own = Object.fromEntries(correction.numbers.map((name) => [name, Math.fround(numbers[name] ?? 0)]));
  return {
    settings: optimizer.settings,
    state: [...optimizer.state, ...correction.state],
    numbers: [...optimizer.numbers, ownClip, ...correction.numbers],
    stepNumbers(values, facts) {
      return { ...optimizer.stepNumbers(values, { ...facts, clip: 1 }), ...own, [ownClip]: Math.fround(facts.clip) };
    },
    plain(arrays, from, to, numbers) {
      const { g } = arrays as Readonly<Record<"g", Float32Array>>;
      const whole = new Float32Array(g.length);
      for (let i = from; i < to; i++)
        whole[i] = Math.fround((numbers[ownClip] as number) * (g[i] as number)) + correction.plain(arrays, i, numbers);
      optimizer.plain({ ...arrays, g: whole } as Arrays, from, to, numbers);
    },
    assignments(operands) {
      const whole = add(mul(operands.number(ownClip), operands.array("g")), correction.code(operands));
      return [["g", whole], ...optimizer.assignments(operands)];
    },
  };
}
