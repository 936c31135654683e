// Opens a run's optimizer state within its memory.
import { having } from "../recipes/index.ts";
import type { Numbers, Recipe, RecipeSetting } from "../recipes/recipe.ts";
import { type OptimizerSettings, optimizerOf } from "./index.ts";
import type { Arrays, Optimizer } from "./optimizer.ts";
import { heldFloats, type Residency, residencyOf, wholeResidency } from "./residency.ts";
import { OptimizerState } from "./state.ts";
import { openStateFile } from "./state-file.ts";
import { add, mul } from "./wasm.ts";

/** The bytes of a rank's optimizer state in memory, shadows included, and the folder for the rest. */
interface StateMemory {
  readonly bytes: number;
  readonly folder: string;
}

export interface AskedOptimizer {
  readonly optimizer: OptimizerSettings;
  readonly optimizerMemory?: StateMemory | undefined;
  readonly recipes?: readonly RecipeSetting[] | undefined;
}

export const arithmeticOf = ({ optimizer, recipes }: AskedOptimizer): Optimizer =>
  having(recipes, "correction").reduce<Optimizer>((plain, { hook, numbers }) => corrected(plain, hook, numbers), optimizerOf(optimizer));

/** The part of the memory for each of so many stores of one rank. */
export function sharedBy(asked: AskedOptimizer, stores: number): AskedOptimizer {
  const { optimizer, recipes, optimizerMemory: memory } = asked;
  return { optimizer, recipes, optimizerMemory: memory && { bytes: Math.floor(memory.bytes / stores), folder: memory.folder } };
}

function residency(asked: AskedOptimizer, floats: number): Residency {
  if (asked.optimizerMemory === undefined) return wholeResidency(floats);
  return residencyOf(floats, arithmeticOf(asked).state.length, asked.optimizerMemory.bytes);
}

export function stateBytes(asked: AskedOptimizer, floats: number): number {
  return heldFloats(residency(asked, floats)) * arithmeticOf(asked).state.length * Float32Array.BYTES_PER_ELEMENT;
}

export function openState(asked: AskedOptimizer, floats: number): Promise<OptimizerState> {
  const openFile = (bytes: number) => openStateFile(asked.optimizerMemory?.folder ?? "", bytes);
  return OptimizerState.open({ optimizer: arithmeticOf(asked), residency: residency(asked, floats), openFile });
}

/** Clipping applies to the gradient without its correction, so it is done here and the optimizer gets 1. */
const ownClip = "ownClip";

/** An optimizer whose gradients a recipe corrects. The recipe's arrays are part of the optimizer's state. */
function corrected(optimizer: Optimizer, correction: NonNullable<Recipe["correction"]>, numbers: Numbers): Optimizer {
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
