// The queue of requests that wait for KV memory, by priority, then arrival.
import { AppError } from "../../../crds/common.ts";
import type { OpenSampling } from "./sampling/open-sampling.ts";

export interface Ticket {
  readonly id: string;
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly maxTokens: number;
  readonly sampling: OpenSampling;
  readonly eos: ReadonlySet<number>;
  readonly priority: number;
  /** The last prompt token's row replaces the output. */
  readonly embed: boolean;
  /** Computes all of the text, without reuse of prefixes. Unset = false. */
  readonly whole?: boolean;
  /** The start of its chain of identities (prefixes.ts); unset = that of most. */
  readonly start?: string | undefined;
}

/** Throws AppError `InvalidRequest` or `ContextOverflow`. */
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

/** How often later requests may overtake one request. */
export const overtakenMax = 64;

export interface Place {
  readonly id: string;
  readonly priority: number;
  readonly arrival: number;
  overtaken: number;
}

const rank = ({ priority, overtaken }: Place): number => (overtaken >= overtakenMax ? Number.NEGATIVE_INFINITY : priority);

export function order(a: Place, b: Place): number {
  const [x, y] = [rank(a), rank(b)];
  return x === y ? a.arrival - b.arrival : x < y ? -1 : 1;
}

export class Waiting {
  readonly #places = new Map<string, Place>();

  get length(): number {
    return this.#places.size;
  }

  ids(): Iterable<string> {
    return this.#places.keys();
  }

  add(place: Place): void {
    this.#places.set(place.id, place);
  }

  first(): Place | undefined {
    let first: Place | undefined;
    for (const place of this.#places.values()) if (first === undefined || order(place, first) < 0) first = place;
    return first;
  }

  take({ id, arrival }: Place): void {
    this.#places.delete(id);
    for (const place of this.#places.values()) if (place.arrival < arrival) place.overtaken += 1;
  }

  /** False if it was not waiting. */
  drop(id: string): boolean {
    return this.#places.delete(id);
  }
}
