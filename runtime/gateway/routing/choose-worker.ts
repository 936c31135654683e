// The choice of the rank for a request: fewest queued tokens; among about equal ones the one that a hash of the prompt's beginning prefers,
// since it may still hold that prefix. Pure.
import type { MemberState } from "../../../crds/names.ts";

/** The gateway's knowledge of one worker when it chooses. */
export interface Candidate {
  readonly rank: number;
  readonly state: MemberState;
  /** It failed a moment ago; used only when nothing else is left after that moment. */
  readonly suspect: boolean;
  /** Tokens that wait to be computed there, as far as this gateway knows. */
  readonly queuedTokens: number;
  /** Its numerics class; "" while that is not known. */
  readonly numerics: string;
  /** The reason for which it can be asked nothing, with its name: it speaks another version of the wire. */
  readonly refused?: string | undefined;
}

export interface Choice {
  readonly rank: number | undefined;
  /** The reason for none, for errors and logs; "" when there is one. */
  readonly reason: string;
}

/** Differences below this are no reason to leave a warm prefix: about one step of a small batch. */
export const tieTokens = 64;
/** Tokens from the beginning that make the affinity: system prompts differ within that. */
const prefixTokens = 64;

interface Wishes {
  /** Ranks that failed this request; one of them is taken where there is no other. */
  readonly avoid?: ReadonlySet<number>;
  /** Those of them that were only full: one of the request's class is asked again before another class is. */
  readonly busy?: ReadonlySet<number>;
  /** The numerics class that computed the request so far: only there its text goes on as it would have. Another is taken where none of
   *  it is left. */
  readonly numerics?: string;
}

export function choose(
  candidates: readonly Candidate[],
  prefix: number,
  { avoid = new Set(), busy = new Set(), numerics }: Wishes = {},
): Choice {
  if (candidates.length === 0) return none("no worker is known");
  const serving = candidates.filter((candidate) => candidate.state === "active");
  // Where every rank leaves, as when a single one is replaced, one that does not refuse is better than none.
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
  const tied = pool.filter((candidate) => candidate.queuedTokens - least <= tieTokens);
  const best = tied.reduce((a, b) => (affinity(prefix, b.rank) > affinity(prefix, a.rank) ? b : a));
  return { rank: best.rank, reason: "" };
}

const none = (reason: string): Choice => ({ rank: undefined, reason });

/** Rendezvous hash: when a rank joins or leaves, only the prefixes that it wins or held move. */
function affinity(prefix: number, rank: number): number {
  return mix(Math.imul(prefix ^ Math.imul(rank + 1, 0x9e3779b1), 0x85ebca6b));
}

/** 32-bit FNV-1a over the first tokens of a prompt. */
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
