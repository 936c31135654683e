// The squared gradients by which a step is committed (DECISIONS.md 1), and the refusal of non-finite losses.

import { AppError } from "../../../crds/common.ts";
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import type { StepFacts } from "../optimizers/optimizer.ts";
import { rateOf } from "../optimizers/schedule.ts";
import type { MicroBatchLoss } from "../passes/passes.ts";
import type { Shape } from "./model-shape.ts";
import type { RankMemory } from "./rank-memory.ts";
import type { RankOptions } from "./rank-options.ts";

/** The norm of all gradients from their squares. */
export const normIn = (squares: Float64Array): number => Math.sqrt(squares.reduce((sum, square) => sum + square, 0));

export function factsOf(
  { schedule, clip }: Pick<RankOptions, "schedule" | "clip">,
  step: number,
  squares: Float64Array,
): Omit<StepFacts, "decays"> {
  return { step, rate: rateOf(schedule, step), clip: Math.min(1, clip / (normIn(squares) + 1e-6)) };
}

interface NormsOf {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly shape: Shape;
  readonly primaries: readonly (readonly number[])[];
  readonly memory: RankMemory;
}

/** Dense pieces, then experts, in order, on all ranks. */
export async function squaredNorms({ transport, stamp, shape, primaries, memory }: NormsOf): Promise<Float64Array> {
  const own: number[] = [];
  const owners: number[] = [];
  for (const { from, to, owner } of shape.pieces) {
    own.push(owner === transport.rank ? memory.denseSquares(from, to) : 0);
    owners.push(owner);
  }
  for (const [layer, row] of primaries.entries())
    for (const [expert, owner] of row.entries()) {
      own.push(owner === transport.rank ? memory.expertSquares(layer, expert) : 0);
      owners.push(owner);
    }
  const name = { what: "squares", layer: -1, lengthFrom: () => own.length };
  const all = await gatherAll(transport, stamp, name, Float64Array.from(own));
  return Float64Array.from(owners, (owner, i) => all[owner]?.[i] as number);
}

const notFinite = (message: string): AppError => new AppError(message, { code: "NonFiniteLoss", operation: "training" });

/** `documents`: those of a micro-batch. */
export async function checkLosses(
  step: number,
  losses: readonly MicroBatchLoss[],
  documents: (microBatch: number) => Promise<string>,
): Promise<void> {
  const microBatch = losses.findIndex(({ loss }) => !Number.isFinite(loss));
  if (microBatch < 0) return;
  throw notFinite(
    `step ${step}: the loss of micro-batch ${microBatch} is not finite (documents ${await documents(microBatch)}); ` +
      "lower --learning-rate or --clip, or import the text without these documents, and go on from a checkpoint",
  );
}

export function checkNorm(step: number, norm: number): void {
  if (Number.isFinite(norm)) return;
  throw notFinite(`step ${step}: the norm of the gradients is not finite; lower --learning-rate and go on from a checkpoint`);
}
