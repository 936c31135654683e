// A request as the scheduler takes it, and the check of one. Pure.
import { AppError } from "../../../crds/common.ts";
import type { OpenSampling } from "./sampling/open-sampling.ts";

export interface Ticket {
  readonly id: string;
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly maxTokens: number;
  readonly sampling: OpenSampling;
  readonly eos: ReadonlySet<number>;
  /** Of those that wait, the lowest number goes first, of equal ones the one that came first. */
  readonly priority: number;
  /** The last prompt token's row is wanted instead of output. */
  readonly embed: boolean;
  /** All of the text is to be computed: nothing that is kept of an equal beginning will do. Unset = false. */
  readonly whole?: boolean;
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
