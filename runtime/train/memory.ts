// The memory of a run, reckoned before anything is allocated, and refused where this machine has less.
import { totalmem } from "node:os";
import { AppError } from "../../crds/common.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { subtreesMost } from "../placement/training/lanes.ts";
import { floatsMax } from "./adamw.ts";
import { wantsWholeStep } from "./balancing.ts";
import { expertFloatsOf, kindsOf, type Layout, type Unit } from "./layout.ts";
import { keptFloats, tiedFloats } from "./network.ts";
import type { TrainSettings } from "./settings.ts";

/** Bytes of a parameter: itself, two moments, its gradient. */
const parameterBytes = 16;
const floatBytes = Float32Array.BYTES_PER_ELEMENT;

interface RunMemory {
  readonly program: ModelProgram;
  readonly layout: Layout;
  /** Floats that are read and not trained. */
  readonly frozenFloats?: number;
  readonly settings: Pick<TrainSettings, "sequences" | "sequenceLength" | "lanes" | "balance">;
}

/** Bytes of a run, but for what the engine takes while it computes. */
export function runBytes({ program, layout, settings, frozenFloats = 0 }: RunMemory) {
  const { lanes, sequences, sequenceLength, balance = [] } = settings;
  const dense = kindsOf(layout).dense.reduce((sum, { from, to }) => sum + to - from, 0);
  const summed = dense + tiedFloats(program, layout.parts[0]?.units[0] as Unit);
  // Of each sum over lanes: the array that backward adds to, and those that wait in the tree.
  const sums = summed * (1 + subtreesMost({ from: 0, to: lanes })) + expertFloatsOf(layout);
  const lanesKept = wantsWholeStep(balance) ? lanes : 1;
  const tokens = (sequences / lanes) * sequenceLength * lanesKept;
  const kept = tokens * program.layers.reduce((sum, layer) => sum + keptFloats(layer), 0);
  const frozen = frozenFloats * floatBytes;
  return { parameters: layout.floats * parameterBytes, frozen, sums: sums * floatBytes, kept: kept * floatBytes, lanesKept };
}

/** Bytes of this machine, or of the container where that has a limit. */
export function memoryThere(): number {
  const limit = process.constrainedMemory(); // 0 without one
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

/** Throws AppError `DoesNotFit` with the sum and its parts. */
export function checkMemory(run: RunMemory, memory = memoryThere()): void {
  const { parameters, frozen, sums, kept, lanesKept } = runBytes(run);
  const bytes = parameters + frozen + sums + kept;
  if (run.layout.floats <= floatsMax && bytes <= memory) return;
  const whole = lanesKept > 1 ? `, all ${lanesKept} since --balance has a loss` : "";
  throw new AppError(
    `${run.layout.parameters} parameters x ${parameterBytes} bytes (parameter, two moments, gradient), ` +
      `${frozen > 0 ? `${gigabytes(frozen)} of parameters that stay, ` : ""}${gigabytes(sums)} of sums of ` +
      `${run.settings.lanes} lanes and ${gigabytes(kept)} that layers keep of ${lanesKept} ${lanesKept > 1 ? "lanes" : "lane"}${whole} are ` +
      `${gigabytes(bytes)}, the memory here trains up to ${gigabytes(Math.min(floatsMax * parameterBytes, memory))}; ` +
      "give more memory, or take a smaller model, fewer --lanes, or fewer --sequences",
    { code: "DoesNotFit", operation: "starting a run" },
  );
}
