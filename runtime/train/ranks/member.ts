// A member of a world at its begin: a rank that makes steps, or one that leaves and hands over its state.
import { type Begin, beginWorld } from "./begin-world.ts";
import { keptBudgetFor, memoryThere } from "./fits.ts";
import { type Shape, shapeOf } from "./model-shape.ts";
import type { RankOptions } from "./rank-options.ts";
import { RankState } from "./rank-state.ts";
import { RankStores } from "./rank-stores.ts";
import { planHash } from "./step-plan.ts";

/** A hash of the run's settings and facts, which decide frames. */
export function runHash({ layout, context, frozen: _ofModel, optimizerMemory: _changesNoBits, ...settings }: RankOptions): string {
  return planHash({ settings, facts: context.facts, layout });
}

export function storesOf(options: RankOptions, shape: Shape): Promise<RankStores> {
  const { transport, facts } = options.context;
  return RankStores.open(options, shape, { rank: transport.rank, ranks: facts.node.length }, options.shadow ? facts.node : []);
}

export function keptBudgetOf(options: RankOptions): number {
  const { transport, facts, group } = options.context;
  return keptBudgetFor({ ...options, facts }, transport.rank, memoryThere(group?.here));
}

export function beginOf(options: RankOptions, given: Pick<Begin, "shape" | "stores" | "rankState">, restore: Begin["restore"]): Begin {
  const { transport, facts, world } = options.context;
  const stamp = { world, step: 0, plan: runHash(options) };
  return { transport, stamp, ranks: facts.node.length, restore, ...given };
}

/** Hands over the state of a leaving rank, which its transport has past the world's ranks. */
export async function leaveWorld(options: RankOptions): Promise<void> {
  const { facts, rankState = new RankState() } = options.context;
  const shape = shapeOf(options.layout, facts.node.length);
  await beginWorld(beginOf(options, { shape, stores: await storesOf(options, shape), rankState }, async () => 0));
}
