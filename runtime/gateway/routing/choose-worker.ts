// Chooses the rank with the fewest queued tokens; among about equal ones that which hosts most of the experts that the conversation
// chooses, else a hash of the prompt's beginning decides, since that rank may have cached it.
import type { MemberState } from "../../../crds/names.ts";

export interface Candidate {
  readonly rank: number;
  readonly state: MemberState;
  /** It failed a moment ago and gets no request now. */
  readonly suspect: boolean;
  /** The count that this gateway knows. */
  readonly queuedTokens: number;
  /** Open ones of this gateway. */
  readonly requests: number;
  /** "" while unknown. */
  readonly numerics: string;
  /** Set, with its name, when it speaks another wire version. */
  readonly refused?: string | undefined;
}

export interface Choice {
  readonly rank: number | undefined;
  /** "" when there is one. */
  readonly reason: string;
}

/** A smaller difference, about one step of a small batch, is not worth leaving a warm prefix. */
export const tieTokens = 64;
/** System prompts differ within these tokens. */
const prefixTokens = 64;

interface Wishes {
  /** These ranks failed the request and are a last resort. */
  readonly avoid?: ReadonlySet<number>;
  /** The full ones of `avoid`, preferred to another class. */
  readonly busy?: ReadonlySet<number>;
  /** The class that computed the request so far, so that its text continues unchanged. */
  readonly numerics?: string;
  /** The hash alone decides, however long the queues are, so that all gateways choose the same rank. */
  readonly byHash?: boolean;
  /** The part of its experts that a rank hosts, by rank, and its own tokens. */
  readonly conversation?: { readonly hosts: ReadonlyMap<number, number>; readonly tokens: number } | undefined;
}

/** In tokens that wait: of a token whose rows leave their rank, and of a whole request at most (../DECISIONS.md 11). */
const wirePrice = { token: 0.5, most: 8 * tieTokens };
/** A smaller difference of parts is chance, and not worth leaving a warm prefix. */
const alikePart = 0.05;
/** A rank takes conversations for their experts while it has so many more requests at most: short ones queue few tokens. */
const requestsMore = 1;

export function choose(
  candidates: readonly Candidate[],
  prefix: number,
  { avoid = new Set(), busy = new Set(), numerics, byHash = false, conversation }: Wishes = {},
): Choice {
  if (candidates.length === 0) return none("no worker is known");
  const serving = candidates.filter((candidate) => candidate.state === "active");
  // If every rank drains, one that still accepts is better than none.
  const ready = serving.length > 0 ? serving : candidates.filter((candidate) => candidate.state === "draining");
  if (ready.length === 0) return none(`none of ${candidates.length} workers is ready`);
  const active = ready.filter(({ refused }) => refused === undefined);
  if (active.length === 0) return none(ready[0]?.refused ?? "");
  const healthy = active.filter((candidate) => !candidate.suspect);
  if (healthy.length === 0) return none(`all ${active.length} ready workers failed a moment ago`);
  const others = healthy.filter((candidate) => !avoid.has(candidate.rank));
  const left = others.length > 0 ? others : healthy;
  const alike = (candidate: Candidate): boolean => candidate.numerics === numerics;
  const full = healthy.filter((candidate) => busy.has(candidate.rank));
  const pool = [left.filter(alike), full.filter(alike)].find(({ length }) => length > 0) ?? left;
  const least = Math.min(...pool.map((candidate) => candidate.queuedTokens));
  const partOf = ({ rank }: Candidate): number => conversation?.hosts.get(rank) ?? 0;
  const there = Math.max(...pool.filter(({ queuedTokens }) => queuedTokens === least).map(partOf));
  const tokens = Math.min(wirePrice.most, wirePrice.token * (conversation?.tokens ?? 0));
  const saved = (candidate: Candidate): number => Math.max(0, partOf(candidate) - there) * tokens;
  const tied = byHash ? pool : pool.filter((candidate) => candidate.queuedTokens - least <= tieTokens + saved(candidate));
  const parts = tied.map(partOf);
  const alikeAll = byHash || Math.max(...parts) - Math.min(...parts) <= alikePart;
  const best = (alikeAll ? tied : nearest(tied, partOf)).reduce((a, b) => (affinity(prefix, b.rank) > affinity(prefix, a.rank) ? b : a));
  return { rank: best.rank, reason: "" };
}

/** The ones that host most, of those with about the fewest requests. */
function nearest(tied: readonly Candidate[], partOf: (candidate: Candidate) => number): readonly Candidate[] {
  const fewest = Math.min(...tied.map(({ requests }) => requests));
  const free = tied.filter(({ requests }) => requests <= fewest + requestsMore);
  const most = Math.max(...free.map(partOf)) - alikePart;
  return free.filter((candidate) => partOf(candidate) >= most);
}

const none = (reason: string): Choice => ({ rank: undefined, reason });

/** Rendezvous hash: a rank that joins or leaves moves only its own prefixes. */
function affinity(prefix: number, rank: number): number {
  return mix(Math.imul(prefix ^ Math.imul(rank + 1, 0x9e3779b1), 0x85ebca6b));
}

/** 32-bit FNV-1a. */
export function prefixHash(prompt: ArrayLike<number>): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < Math.min(prompt.length, prefixTokens); i++) hash = Math.imul(hash ^ (prompt[i] ?? 0), 0x01000193);
  return mix(hash);
}

function mix(value: number): number {
  let x = value ^ (value >>> 16);
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
