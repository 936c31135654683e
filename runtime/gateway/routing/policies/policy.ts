// The interface of a policy: it takes one of the ranks that can compute a request, at least one.
import type { MemberState, RoutingReason } from "../../../../crds/names.ts";
import type { RankRole } from "../../../../crds/roles.ts";

export interface Candidate {
  readonly rank: number;
  readonly state: MemberState;
  /** It failed a moment ago and gets no request now. */
  readonly suspect: boolean;
  /** The count that this gateway knows. */
  readonly queuedTokens: number;
  /** Open ones of this gateway. */
  readonly requests: number;
  /** Tokens of the prompt that are computed there, or will be before it. */
  readonly found: number;
  /** When it was taken last: a count of all choices, 0 = never. */
  readonly lastChosen: number;
  /** Undefined: both. */
  readonly role?: RankRole | undefined;
  /** "" while unknown. */
  readonly numerics: string;
  /** Set, with its name, when it speaks another wire version. */
  readonly refused?: string | undefined;
}

export interface Asked {
  /** A hash of the prompt's beginning. */
  readonly prefix: number;
  /** The part of its experts that a rank hosts, by rank, and its own tokens. */
  readonly conversation?: { readonly hosts: ReadonlyMap<number, number>; readonly tokens: number } | undefined;
}

interface Taken {
  readonly rank: number;
  /** What decided. */
  readonly by: RoutingReason;
}

export type RoutingPolicy = (ranks: readonly Candidate[], asked: Asked) => Taken;
