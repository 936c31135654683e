// The rank with the fewest queued tokens; among about equal ones that which hosts most of the experts that the conversation chooses,
// else the one that a hash of the prompt's beginning chooses, since it may have cached it.
import { byHash } from "../rendezvous.ts";
import type { Asked, Candidate, RoutingPolicy } from "./policy.ts";

/** A smaller difference, about one step of a small batch, is not worth leaving a warm prefix. */
export const tieTokens = 64;
/** In tokens that wait: of a token whose rows leave their rank, and of a whole request at most (../../DECISIONS.md 11). */
const wirePrice = { token: 0.5, most: 8 * tieTokens };
/** A smaller difference of parts is chance, and not worth leaving a warm prefix. */
const alikePart = 0.05;
/** A rank takes requests for what it has while it has so many more of them at most: short ones queue few tokens. */
export const requestsMore = 1;

const partOf = ({ rank }: Candidate, { conversation }: Asked): number => conversation?.hosts.get(rank) ?? 0;

/** Tokens that experts at home are worth. */
export const expertsWorth = (candidate: Candidate, asked: Asked): number =>
  partOf(candidate, asked) * Math.min(wirePrice.most, wirePrice.token * (asked.conversation?.tokens ?? 0));

export const loadAware: RoutingPolicy = (ranks, asked) => {
  const least = Math.min(...ranks.map(({ queuedTokens }) => queuedTokens));
  const worth = (candidate: Candidate): number => expertsWorth(candidate, asked);
  const there = Math.max(...ranks.filter(({ queuedTokens }) => queuedTokens === least).map(worth));
  const tied = ranks.filter((one) => one.queuedTokens - least <= tieTokens + Math.max(0, worth(one) - there));
  const parts = tied.map((one) => partOf(one, asked));
  const alike = Math.max(...parts) - Math.min(...parts) <= alikePart;
  const { rank } = byHash(alike ? tied : nearest(tied, asked), asked.prefix);
  if (!alike) return { rank, by: "experts" };
  return { rank, by: tied.length > 1 ? "hash" : "load" };
};

/** The ones that host most, of those with about the fewest requests. */
function nearest(tied: readonly Candidate[], asked: Asked): readonly Candidate[] {
  const fewest = Math.min(...tied.map(({ requests }) => requests));
  const free = tied.filter(({ requests }) => requests <= fewest + requestsMore);
  const most = Math.max(...free.map((one) => partOf(one, asked))) - alikePart;
  return free.filter((one) => partOf(one, asked) >= most);
}
