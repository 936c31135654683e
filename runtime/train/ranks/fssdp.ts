// The settings of sharded experts and their defaults. They change no bits, so they are not part of a run's identity.
import { AppError } from "../../../crds/common.ts";
import { dispatchNames, rematerializeNames, trainingPlannerNames } from "../../../crds/names.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { microBatchIntervals } from "../../placement/training/micro-batches.ts";
import { expertFloatsOf, type Layout } from "../model/layout.ts";
import type { Fssdp } from "./step-plan.ts";

/** Rough rates of a core and a link, which planners use until ranks have measured both. */
const flopsPerSecond = 9e10;
const linkBytesPerSecond = 1.25e8;

/** Per row and parameter: forward, forward again, and two gradients, two operations each. */
const flopsPerFloat = 8;
/** Per replica and parameter: itself and its gradient. */
const bytesPerFloat = 8;

const copiesMax = 4096;
const stepsMax = 1_000_000;

export interface FssdpProblem {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly ranks: number;
  readonly microBatches: number;
  readonly sequences: number;
  readonly sequenceLength: number;
  /** A loss needs the rows of all micro-batches before any backward. */
  readonly wholeStep: boolean;
}

function refuse(field: string, value: unknown, must: string): never {
  throw new AppError(`fssdp.${field} is ${value}; it must be ${must}`, { code: "BadOption", operation: "reading the settings of a run" });
}

function whole(field: keyof Fssdp, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) refuse(field, value, `a whole number from ${min} to ${max}`);
}

function oneOf(field: keyof Fssdp, value: string, names: readonly string[]): void {
  if (!names.includes(value)) refuse(field, value, names.join(" or "));
}

/** Throws AppError `BadOption` with the field. */
export function fssdpOf(given: Partial<Fssdp>, problem: FssdpProblem): Fssdp {
  const { ranks, microBatches, layout, wholeStep } = problem;
  microBatchIntervals(microBatches, new Array<number>(ranks).fill(1));
  const alone = ranks === 1;
  const floats = Math.max(1, expertFloatsOf(layout));
  const seconds = given.seconds ?? {
    row: (flopsPerFloat * floats) / flopsPerSecond,
    expertReplica: (bytesPerFloat * floats) / linkBytesPerSecond,
  };
  const memorySlots = given.memorySlots ?? (alone ? 0 : 2);
  const made: Fssdp = {
    planner: given.planner ?? (alone ? "ep" : "auto"),
    dispatch: given.dispatch ?? "Exact",
    rematerialize: given.rematerialize ?? "Never",
    memorySlots,
    overlapDegree: given.overlapDegree ?? Math.min(memorySlots, Math.floor((rowsOf(problem) * seconds.row) / seconds.expertReplica)),
    window: given.window ?? 5,
    reshardSteps: given.reshardSteps ?? 100,
    microBatchesAtOnce: wholeStep ? microBatches : (given.microBatchesAtOnce ?? (alone ? 1 : microBatches)),
    seconds,
    measured: !alone && given.seconds === undefined && given.overlapDegree === undefined,
  };
  if (typeof made.planner === "string") oneOf("planner", made.planner, trainingPlannerNames);
  oneOf("dispatch", made.dispatch, dispatchNames);
  oneOf("rematerialize", made.rematerialize, rematerializeNames);
  whole("memorySlots", made.memorySlots, 0, copiesMax);
  whole("overlapDegree", made.overlapDegree, 0, copiesMax);
  whole("window", made.window, 1, stepsMax);
  whole("reshardSteps", made.reshardSteps, 1, stepsMax);
  whole("microBatchesAtOnce", made.microBatchesAtOnce, ranks, Math.max(ranks, microBatches));
  if (2 ** Math.round(Math.log2(made.microBatchesAtOnce)) !== made.microBatchesAtOnce)
    refuse("microBatchesAtOnce", made.microBatchesAtOnce, "a power of two");
  return made;
}

function rowsOf({ program, ranks, sequences, sequenceLength }: FssdpProblem): number {
  const most = program.layers.reduce((topK, layer) => (layer.kind === "dense" ? topK : Math.max(topK, layer.topK)), 0);
  return (sequences * sequenceLength * most) / ranks;
}
