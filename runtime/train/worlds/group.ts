// The contexts of ranks in worlds that meet. A world's transport is a part of one transport of all worlds, so a loss in one world ends
// all.
import { AppError } from "../../../crds/common.ts";
import { partOf } from "../../net/collectives/part.ts";
import type { RankContext } from "../ranks/rank-context.ts";

export const firstRanks = (ranks: number, worlds: number): readonly number[] =>
  Array.from({ length: worlds }, (_, world) => Math.floor((world * ranks) / worlds));

/** The context of a rank in its world. Throws AppError `BadOption` for fewer ranks than worlds. */
export function contextInWorld({ transport: way, facts, run, world: epoch }: RankContext, worlds: number, here = 1): RankContext {
  const ranks = facts.node.length;
  const transport = partOf(way, 0, ranks);
  const { rank } = transport;
  if (ranks < worlds)
    throw new AppError(`${worlds} worlds have ${ranks} ranks; give each world one at least`, {
      code: "BadOption",
      operation: "starting a run",
    });
  const firsts = firstRanks(ranks, worlds);
  const world = firsts.findLastIndex((first) => first <= rank);
  const [from, to] = [firsts[world] as number, firsts[world + 1] ?? ranks];
  return {
    transport: partOf(transport, from, to - from),
    run,
    world: epoch,
    facts: { node: facts.node.slice(from, to), speed: facts.speed.slice(from, to) },
    group: { transport, firsts, world, here },
  };
}
