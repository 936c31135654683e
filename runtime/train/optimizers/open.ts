// Opens the arrays of a run as it asks for them: which optimizer, and how much of its state may be in memory. Shell.
import { type OptimizerSettings, optimizerOf } from "./index.ts";
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
}

/** Of so many stores of one rank, which have equal parts of its memory. */
export function sharedBy(asked: AskedOptimizer, stores: number): AskedOptimizer {
  const { optimizer, optimizerMemory: memory } = asked;
  return { optimizer, optimizerMemory: memory && { bytes: Math.floor(memory.bytes / stores), folder: memory.folder } };
}

function residency({ optimizer, optimizerMemory }: AskedOptimizer, floats: number): Residency {
  if (optimizerMemory === undefined) return wholeResidency(floats);
  return residencyOf(floats, optimizerOf(optimizer).state.length, optimizerMemory.bytes);
}

/** Bytes in memory of the state of `floats` parameters, by the law. */
export function stateBytes(asked: AskedOptimizer, floats: number): number {
  return heldFloats(residency(asked, floats)) * optimizerOf(asked.optimizer).state.length * Float32Array.BYTES_PER_ELEMENT;
}

export function openState(asked: AskedOptimizer, floats: number): Promise<OptimizerState> {
  const openFile = (bytes: number) => openStateFile(asked.optimizerMemory?.folder ?? "", bytes);
  return OptimizerState.open({ optimizer: optimizerOf(asked.optimizer), residency: residency(asked, floats), openFile });
}
