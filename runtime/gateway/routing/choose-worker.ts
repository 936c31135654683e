// Chooses a rank: the policy takes one of those that can compute the request.
import { defaultRoutingPolicy, type RoutingReason } from "../../../crds/names.ts";
import type { RankRole } from "../../../crds/roles.ts";
import { policies } from "./policies/index.ts";
import { tieTokens } from "./policies/load-aware.ts";
import type { Asked, Candidate, RoutingPolicy } from "./policies/policy.ts";
import { byHash as rankByHash } from "./rendezvous.ts";
import { able, own } from "./roles.ts";

export interface Choice {
  readonly rank: number | undefined;
  /** "" when there is one. */
  readonly reason: string;
  readonly by?: RoutingReason;
}

interface Wishes {
  /** These ranks failed the request and are a last resort. */
  readonly avoid?: ReadonlySet<number>;
  /** The full ones of `avoid`, preferred to another class. */
  readonly busy?: ReadonlySet<number>;
  /** The class that computed the request so far, so that its text continues unchanged. */
  readonly numerics?: string;
  /** The hash alone decides, however long the queues are, so that all gateways choose the same rank. */
  readonly byHash?: boolean;
  readonly conversation?: Asked["conversation"];
  /** Ranks of another role are a last resort. */
  readonly role?: RankRole | undefined;
  readonly policy?: RoutingPolicy;
}

export function choose(
  candidates: readonly Candidate[],
  prefix: number,
  {
    avoid = new Set(),
    busy = new Set(),
    numerics,
    byHash = false,
    conversation,
    role,
    policy = policies[defaultRoutingPolicy],
  }: Wishes = {},
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
  const may = able([left.filter(alike), full.filter(alike)].find(({ length }) => length > 0) ?? left, role);
  const pool = own(may, role, byHash ? Number.POSITIVE_INFINITY : tieTokens);
  const { rank, by } = byHash ? { ...rankByHash(pool, prefix), by: "hash" as const } : policy(pool, { prefix, conversation });
  return { rank, reason: "", by };
}

const none = (reason: string): Choice => ({ rank: undefined, reason });
