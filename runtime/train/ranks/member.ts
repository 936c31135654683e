// A member of a world at its begin, by the options that all members have: a rank that makes steps from there on, or one that leaves and
// hands over what it has.
import { type Begin, beginWorld } from "./begin-world.ts";
import { keptBudgetFor, memoryThere } from "./fits.ts";
import { type Shape, shapeOf } from "./model-shape.ts";
import type { RankOptions } from "./rank-options.ts";
import { RankState } from "./rank-state.ts";
import { RankStores } from "./rank-stores.ts";
import { planHash } from "./step-plan.ts";

/** Tells a run's settings and facts from others: they decide frames, as plans do. */
export function runHash({ layout, context, frozen: _ofModel, optimizerMemory: _changesNoBits, ...settings }: RankOptions): string {
  return planHash({ settings, facts: context.facts, layout });
}

/** The stores of a rank of the world; those of one that leaves have no room. */
export function storesOf(options: RankOptions, shape: Shape): Promise<RankStores> {
  const { transport, facts } = options.context;
  return RankStores.open(options, shape, { rank: transport.rank, ranks: facts.node.length }, options.shadow ? facts.node : []);
}

/** Floats that forward may keep here, where worlds of one machine share its memory. */
export function keptBudgetOf(options: RankOptions): number {
  const { transport, facts, group } = options.context;
  return keptBudgetFor({ ...options, facts }, transport.rank, memoryThere(group?.here));
}

export function beginOf(options: RankOptions, given: Pick<Begin, "shape" | "stores" | "rankState">, restore: Begin["restore"]): Begin {
  const { transport, facts, world } = options.context;
  const stamp = { world, step: 0, plan: runHash(options) };
  return { transport, stamp, ranks: facts.node.length, restore, ...given };
}

/** Hands over what a rank has that is none of the new world's: its transport has it as a rank past theirs. */
export async function leaveWorld(options: RankOptions): Promise<void> {
  const { facts, rankState = new RankState() } = options.context;
  const shape = shapeOf(options.layout, facts.node.length);
  await beginWorld(beginOf(options, { shape, stores: await storesOf(options, shape), rankState }, async () => 0));
}
