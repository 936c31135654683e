// The queue of requests that wait for KV memory, pure: the lowest priority number first, then who came first. One that was overtaken
// often enough goes before all others, so that nobody waits for ever.

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
