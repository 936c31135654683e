// A request as the scheduler takes it, the check of one, and the size of the chunks that its prompt is computed in. Pure.
import { AppError } from "../../../crds/common.ts";
import type { Sampling } from "./request.ts";

export interface Ticket {
  readonly id: string;
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly eos: ReadonlySet<number>;
  /** Lower is sooner; unset: 0. */
  readonly priority?: number;
}

/** Tokens of the next chunk. Never leaves a single token behind and never is one, unless the prompt has only one:
 *  one token on a past takes the decode path of a backend, whose bits differ from a prefill's. */
export function chunkOf(left: number, chunk: number): number {
  if (left <= chunk) return left;
  if (left - chunk !== 1) return chunk;
  return chunk > 2 ? chunk - 1 : left;
}

/** Throws AppError `InvalidRequest` or `ContextOverflow` for a request that cannot be served. */
export function checkTicket({ prompt, replay, maxTokens }: Ticket, context: number): void {
  const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });
  if (prompt.length === 0) throw invalid("prompt: has no tokens");
  if (maxTokens < 1) throw invalid(`max_tokens: ${maxTokens}, at least 1`);
  if (replay.length >= maxTokens) throw invalid(`replay: ${replay.length} tokens, but max_tokens is ${maxTokens}`);
  if (prompt.length + replay.length >= context) {
    throw new AppError(
      `prompt: ${prompt.length + replay.length} tokens leave no room to answer in a context of ${context}; shorten the prompt`,
      { code: "ContextOverflow" },
    );
  }
}
