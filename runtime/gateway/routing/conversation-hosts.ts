// Which ranks host most of the experts that a conversation chooses, by the hash of its beginning, as ranks tell at the end of its
// requests. Bounded: the conversation that ended longest ago goes first.

/** The part of the experts chosen for a request's rows that a rank hosts, 0 to 1. */
export interface HostShare {
  readonly rank: number;
  readonly share: number;
}

const conversationsMax = 4096;

export class ConversationHosts {
  readonly #byPrefix = new Map<number, ReadonlyMap<number, number>>();

  learn(prefix: number, hosts: readonly HostShare[]): void {
    const told = hosts.filter(({ share }) => share >= 0 && share <= 1);
    if (told.length === 0) return;
    const before = this.#byPrefix.get(prefix);
    this.#byPrefix.delete(prefix);
    this.#byPrefix.set(prefix, new Map(told.map(({ rank, share }) => [rank, (share + (before?.get(rank) ?? share)) / 2])));
    const [oldest] = this.#byPrefix.keys();
    if (this.#byPrefix.size > conversationsMax && oldest !== undefined) this.#byPrefix.delete(oldest);
  }

  /** 0 to 1 by rank; undefined for a conversation that is not known. */
  of(prefix: number): ReadonlyMap<number, number> | undefined {
    return this.#byPrefix.get(prefix);
  }
}
