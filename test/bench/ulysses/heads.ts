// What an all-to-all of the heads of one prompt's attention moves. Pure.
import { columnsOf, type Heads, headGroups } from "../../../runtime/kernels/head-groups.ts";

const f32Bytes = 4;

/**
 * Bytes that each rank sends each other one in a layer, [from][to]: queries, keys and values of a rank's own tokens to the ranks that have
 * their heads, and outputs of its own heads to the ranks that have the tokens. What stays on a rank is on the diagonal.
 */
export function allToAllBytes(shape: Heads, tokens: readonly number[]): number[][] {
  const groups = headGroups(shape, tokens.length);
  const width = (rank: number, parts: readonly ("q" | "k" | "v" | "out")[]): number => {
    const columns = groups[rank] && columnsOf(shape, groups[rank]);
    return columns ? parts.reduce((sum, part) => sum + columns[part].to - columns[part].from, 0) : 0;
  };
  return tokens.map((own, from) =>
    tokens.map((theirs, to) => f32Bytes * (own * width(to, ["q", "k", "v"]) + theirs * width(from, ["out"]))),
  );
}

/** Of the rank whose link has most, in the direction that has most. */
export function linkBytes(sent: readonly (readonly number[])[]): number {
  const ofOthers = (bytes: readonly number[], rank: number): number => bytes.reduce((sum, each, i) => (i === rank ? sum : sum + each), 0);
  const out = sent.map((to, rank) => ofOthers(to, rank));
  const into = sent.map((_, rank) =>
    ofOthers(
      sent.map((to) => to[rank] as number),
      rank,
    ),
  );
  return Math.max(...out, ...into);
}
