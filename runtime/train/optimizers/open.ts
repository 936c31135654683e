// Opens a run's optimizer state within its memory.

import { having } from "../recipes/index.ts";
import type { RecipeSetting } from "../recipes/recipe.ts";
import { corrected } from "./corrected.ts";
import { type OptimizerSettings, optimizerOf } from "./index.ts";
import type { Optimizer } from "./optimizer.ts";
import { heldFloats, type Residency, residencyOf, wholeResidency } from "./residency.ts";
import { OptimizerState } from "./state.ts";
import { openStateFile } from "./state-file.ts";

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
