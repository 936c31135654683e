// The rank context of a rank in one of several worlds that meet: a world's own transport is a part of one way to all ranks of all worlds. Who is
// lost in one world is so lost to all of them: none goes on with the mean of fewer.
import { AppError } from "../../../crds/common.ts";
import { partOf } from "../../net/collectives/part.ts";
import type { RankContext } from "../ranks/rank-context.ts";

/** The first rank of each world, where ranks are dealt to worlds in order. */
export const firstRanks = (ranks: number, worlds: number): readonly number[] =>
  Array.from({ length: worlds }, (_, world) => Math.floor((world * ranks) / worlds));

/** The rank context in its world of a rank among ranks of several worlds, dealt to them in order. Throws AppError `BadOption` for fewer ranks. */
export function contextInWorld({ transport: way, facts, run, world: epoch }: RankContext, worlds: number, here = 1): RankContext {
  const ranks = facts.node.length;
  const transport = partOf(way, 0, ranks); // without pods that leave
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
