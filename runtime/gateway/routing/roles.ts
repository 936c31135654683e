// Which role's ranks compute a request: prompts go to ranks for prefill, and their answers to ranks for decode (../DECISIONS.md 12). Pure.
import type { RankRole } from "../../../crds/roles.ts";
import type { Generation } from "./failover.ts";
import type { Candidate } from "./policies/policy.ts";

/** Fewer tokens hold up a rank's streams for less time than their keys and values take to move. */
export const directTokens = 128;

type Asked = Pick<Generation, "prompt" | "maxTokens" | "embed" | "keep" | "home"> & { readonly sampling: { readonly logprobs: boolean } };

/** `replayed`: tokens of the answer that are there; `known`: tokens of the prompt that a rank has. */
export function wantedRole(
  { prompt, maxTokens, embed, keep, home, sampling }: Asked,
  { replayed, known }: { readonly replayed: number; readonly known: number },
): RankRole {
  if (embed || maxTokens === 1) return "prefill";
  // What is kept lies at one rank from its first token on, where a client may ask for it or it has log-probabilities.
  const isWhole = home !== undefined || keep?.stays === true || (keep !== undefined && sampling.logprobs);
  return replayed > 0 || isWhole || prompt.length - known < directTokens ? "decode" : "prefill";
}

/** True where the rank computes the prompt and the first token alone. */
export const handsOver = (
  { embed, maxTokens }: Pick<Generation, "embed" | "maxTokens">,
  wanted: RankRole | undefined,
  given: RankRole | undefined,
): boolean => wanted === "prefill" && given === "prefill" && embed !== true && maxTokens > 1;

/** Those that may do it; all where nobody may, since a slow answer is better than none. */
export function able(ranks: readonly Candidate[], wanted: RankRole | undefined): readonly Candidate[] {
  const some = ranks.filter(({ role }) => role === undefined || role === wanted);
  return wanted === undefined || some.length === 0 ? ranks : some;
}

/** Ranks that do both are for what those of the role alone cannot take: they count where more than `tie` tokens less are before it. */
export function own(ranks: readonly Candidate[], wanted: RankRole | undefined, tie: number): readonly Candidate[] {
  const before = ({ queuedTokens, found }: Candidate): number => queuedTokens - found;
  const of = ranks.filter(({ role }) => role !== undefined && role === wanted);
  const least = Math.min(...of.map(before));
  return of.length === 0 ? ranks : ranks.filter((one) => one.role === wanted || before(one) + tie < least);
}
