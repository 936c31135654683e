// Opens the arrays of a run as it asks for them: which optimizer, and how much of its state may be in memory. Shell.

import { having } from "../recipes/index.ts";
import type { RecipeSetting } from "../recipes/recipe.ts";
import { corrected } from "./corrected.ts";
import { type OptimizerSettings, optimizerOf } from "./index.ts";
import type { Optimizer } from "./optimizer.ts";
import { heldFloats, type Residency, residencyOf, wholeResidency } from "./residency.ts";
import { OptimizerState } from "./state.ts";
import { openStateFile } from "./state-file.ts";

/** Bytes of a rank's optimizer state in memory at most, what it shadows among it, and the folder of the file in which the rest lies. */
interface StateMemory {
  readonly bytes: number;
  readonly folder: string;
}

export interface AskedOptimizer {
  readonly optimizer: OptimizerSettings;
  /** Unset: all state is in memory. Bits are the same. */
  readonly optimizerMemory?: StateMemory | undefined;
  /** Recipes of the run, of which one may correct its gradients. */
  readonly recipes?: readonly RecipeSetting[] | undefined;
}

/** The optimizer as it is asked for, with all that it keeps. */
export const arithmeticOf = ({ optimizer, recipes }: AskedOptimizer): Optimizer =>
  having(recipes, "correction").reduce<Optimizer>((plain, { hook, numbers }) => corrected(plain, hook, numbers), optimizerOf(optimizer));

/** Of so many stores of one rank, which have equal parts of its memory. */
export function sharedBy(asked: AskedOptimizer, stores: number): AskedOptimizer {
  const { optimizer, recipes, optimizerMemory: memory } = asked;
  return { optimizer, recipes, optimizerMemory: memory && { bytes: Math.floor(memory.bytes / stores), folder: memory.folder } };
}

function residency(asked: AskedOptimizer, floats: number): Residency {
  if (asked.optimizerMemory === undefined) return wholeResidency(floats);
  return residencyOf(floats, arithmeticOf(asked).state.length, asked.optimizerMemory.bytes);
}

/** Bytes in memory of the state of `floats` parameters, by the law. */
export function stateBytes(asked: AskedOptimizer, floats: number): number {
  return heldFloats(residency(asked, floats)) * arithmeticOf(asked).state.length * Float32Array.BYTES_PER_ELEMENT;
}

export function openState(asked: AskedOptimizer, floats: number): Promise<OptimizerState> {
  const openFile = (bytes: number) => openStateFile(asked.optimizerMemory?.folder ?? "", bytes);
  return OptimizerState.open({ optimizer: arithmeticOf(asked), residency: residency(asked, floats), openFile });
}
