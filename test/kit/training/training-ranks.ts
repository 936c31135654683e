// Ranks of training for tests: one alone, whose gradients can be looked at, and batches of given micro-batches.

import type { TrainingBackend } from "../../../runtime/compute/training.ts";
import type { ModelProgram } from "../../../runtime/kernels/segment.ts";
import { Loopback } from "../../../runtime/net/collectives/loopback.ts";
import type { Hub } from "../../../runtime/net/collectives/transport.ts";
import type { RunEnd } from "../../../runtime/train/loop/run.ts";
import { train } from "../../../runtime/train/loop/run.ts";
import type { TrainPorts } from "../../../runtime/train/loop/train-ports.ts";
import type { TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import type { Layout } from "../../../runtime/train/model/layout.ts";
import type { MicroBatch } from "../../../runtime/train/passes/passes.ts";
import { Rank } from "../../../runtime/train/ranks/rank.ts";
import { aloneContext, type RankContext } from "../../../runtime/train/ranks/rank-context.ts";
import type { RankOptions } from "../../../runtime/train/ranks/rank-options.ts";
import type { Batch, StepEnd } from "../../../runtime/train/ranks/step-contract.ts";
import type { Fssdp } from "../../../runtime/train/ranks/step-plan.ts";
import type { RecipeSetting } from "../../../runtime/train/recipes/recipe.ts";
import { contextInWorld } from "../../../runtime/train/worlds/group.ts";
import { worldSettings } from "../../../runtime/train/worlds/together.ts";

export const testFssdp: Fssdp = {
  planner: "hecate",
  dispatch: "Exact",
  rematerialize: "Never",
  memorySlots: 2,
  overlapDegree: 3,
  window: 5,
  reshardSteps: 2,
  microBatchesAtOnce: 1,
  seconds: { row: 1, expertReplica: 1 },
};

/** How a rank learns in tests. */
export const testLearning = {
  schedule: { name: "constant", rate: 1e-2, warmup: 0, steps: 3, floor: 0 },
  optimizer: { name: "adamw", values: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1 } },
  clip: 1,
} as const satisfies Partial<RankOptions>;

export const batchOf = (microBatches: readonly MicroBatch[]): Batch => ({
  microBatch: async (microBatch) => microBatches[microBatch]!,
  documents: async (microBatch) => `those of micro-batch ${microBatch}`,
});

export interface LoneRank {
  readonly program: ModelProgram;
  readonly layout: Layout;
  /** Of one step; all have whole sequences of that many tokens. */
  readonly microBatches: readonly MicroBatch[];
  readonly sequenceLength: number;
  readonly recipes?: readonly RecipeSetting[];
  readonly microBatchesAtOnce?: number;
}

export function openLoneRank(backend: TrainingBackend, given: LoneRank): Promise<Rank> {
  const { program, layout, microBatches, sequenceLength, recipes = [], microBatchesAtOnce = 1 } = given;
  const sequences = microBatches.reduce((sum, { inputs }) => sum + inputs.length, 0) / sequenceLength;
  const batch = { microBatches: microBatches.length, sequences, sequenceLength };
  const fssdp = { ...testFssdp, planner: "ep", microBatchesAtOnce } as const;
  return Rank.open(backend, { ...testLearning, context: aloneContext(), program, layout, ...batch, recipes, fssdp });
}

/** The end of a first step from these parameters, and its gradients. */
export async function gradientsAt(rank: Rank, given: LoneRank, parameters: Float32Array) {
  const { layout, microBatches } = given;
  rank.state.load(parameters);
  const end: StepEnd = (await rank.step(1, batchOf(microBatches)))!;
  const gradients = new Float32Array(layout.floats);
  rank.state.save(gradients, "g");
  return { end, gradients };
}

/** A run of so many ranks in one process, each with ports of its own. Where one fails all end, with the first error. */
export function trainRanks(ranks: number, settings: TrainSettings, portsOf: (rank: number) => TrainPorts): Promise<readonly RunEnd[]> {
  return onRanks(new Loopback(ranks), ranks, (rank, context) => train(settings, portsOf(rank), context));
}

/** The same of worlds that meet, each with data of its own; `settingsOf` a rank may differ. */
export function trainGroup(hub: Hub, ranks: number, { data, settingsOf, portsOf }: GroupRun): Promise<readonly RunEnd[]> {
  return onRanks(hub, ranks, (rank, given) => {
    const context = contextInWorld(given, data.length);
    const world = context.group?.world ?? 0;
    return train(worldSettings(settingsOf(world), world, data[world] as string), portsOf(world, rank), context);
  });
}

interface GroupRun {
  readonly data: readonly string[];
  settingsOf(world: number): TrainSettings;
  portsOf(world: number, rank: number): TrainPorts;
}

async function onRanks(hub: Hub, ranks: number, run: (rank: number, context: RankContext) => Promise<RunEnd>): Promise<readonly RunEnd[]> {
  const all = Array.from({ length: ranks }, (_, rank) => rank);
  const facts = { node: all, speed: all.map(() => 1) };
  let failed: { readonly error: unknown } | undefined;
  const ends = all.map(async (rank) => {
    try {
      return await run(rank, { transport: hub.transport(rank), world: 1, facts });
    } catch (caught) {
      failed ??= { error: caught };
      hub.end(caught);
      return undefined;
    }
  });
  const found = await Promise.all(ends);
  if (failed !== undefined) throw (failed as { readonly error: unknown }).error;
  return found as readonly RunEnd[];
}
