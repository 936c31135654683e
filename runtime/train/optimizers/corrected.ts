// An optimizer whose gradients a recipe of local steps corrects. What the recipe keeps is state as the optimizer's own is: checkpoints,
// moves and the file on disk have it, and the law of memory counts it. Pure.

import { localOf } from "../local/index.ts";
import type { LocalSetting } from "../local/local.ts";
import type { Arrays, Optimizer } from "./optimizer.ts";
import { add, mul } from "./wasm.ts";

/** Clipping is of the gradient and not of its correction, so that it is done here and the optimizer is given 1. */
const ownClip = "ownClip";

export function corrected(optimizer: Optimizer, setting: LocalSetting): Optimizer {
  const { correction, numbers: own, state } = localOf(setting);
  if (correction === undefined) return optimizer;
  return {
    settings: optimizer.settings,
    state: [...optimizer.state, ...state],
    numbers: [...optimizer.numbers, ownClip, ...own.map(({ name }) => name)],
    stepNumbers(values, facts) {
      const numbers = optimizer.stepNumbers(values, { ...facts, clip: 1 });
      return { ...numbers, ...setting.numbers, [ownClip]: Math.fround(facts.clip) };
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
