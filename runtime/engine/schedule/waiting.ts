// Requests that wait for KV memory: what a request is to the scheduler, and the queue by priority number, then by arrival.
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

/** Times that later requests may go before an earlier one. */
export const overtakenMax = 64;

export interface Place {
  readonly id: string;
  /** Lower is sooner. */
  readonly priority: number;
  /** Counts requests in the order in which they came. */
  readonly arrival: number;
  overtaken: number;
}

const rank = ({ priority, overtaken }: Place): number => (overtaken >= overtakenMax ? Number.NEGATIVE_INFINITY : priority);

/** Below 0 where `a` goes before `b`. */
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

  /** Who is next. */
  first(): Place | undefined {
    let first: Place | undefined;
    for (const place of this.#places.values()) if (first === undefined || order(place, first) < 0) first = place;
    return first;
  }

  /** Takes a request out to be served: those that came before it were overtaken. */
  take({ id, arrival }: Place): void {
    this.#places.delete(id);
    for (const place of this.#places.values()) if (place.arrival < arrival) place.overtaken += 1;
  }

  /** Takes a request out that has ended; false where it does not wait. */
  drop(id: string): boolean {
    return this.#places.delete(id);
  }
}
