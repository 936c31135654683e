// The rank where the request has least before it: tokens that are queued, less those of its prompt that are computed there, less what
// experts at home are worth. Load wins: a crowded rank takes nothing for what it has (../../DECISIONS.md 12).
import { movedKv } from "../../../../crds/common.ts";
import { expertsWorth, loadAware, requestsMore, tieTokens } from "./load-aware.ts";
import type { Candidate, RoutingPolicy } from "./policy.ts";

export const prefixAware: RoutingPolicy = (ranks, asked) => {
  if (ranks.every(({ found }) => found < movedKv.tokens)) return loadAware(ranks, asked);
  const free = ranks.filter((one) => !isCrowded(one, ranks));
  const cost = (one: Candidate): number => one.queuedTokens - one.found - expertsWorth(one, asked);
  const least = Math.min(...free.map(cost));
  const near = free.filter((one) => cost(one) <= least + tieTokens);
  const most = Math.max(...near.map(({ found }) => found));
  const having = near.filter(({ found }) => found > most - movedKv.tokens);
  const taken = loadAware(having, asked);
  return having.length < free.length ? { rank: taken.rank, by: "prefix" } : taken;
};

/** Another one has fewer requests, and no more tokens wait there. */
const isCrowded = ({ requests, queuedTokens }: Candidate, ranks: readonly Candidate[]): boolean =>
  ranks.some((other) => other.requests + requestsMore < requests && other.queuedTokens <= queuedTokens);
