// What a tier holds by name, in so many places of one size: an eviction of the registry says which leaves for another.
import type { Eviction, EvictionKind } from "./eviction.ts";

interface Held<Value> {
  readonly name: string;
  readonly value: Value;
}

export class Places<Value> {
  readonly count: number;
  readonly #eviction: Eviction;
  readonly #at = new Map<string, number>();
  readonly #held: (Held<Value> | undefined)[] = [];
  readonly #dropped: number[] = [];

  constructor(count: number, kind: EvictionKind) {
    this.count = count;
    this.#eviction = kind.create({ grid: { layers: 1, experts: count } });
  }

  get used(): number {
    return this.#at.size;
  }

  /** Without a use. */
  peek(name: string): Value | undefined {
    const at = this.#at.get(name);
    return at === undefined ? undefined : this.#held[at]?.value;
  }

  take(name: string): Value | undefined {
    const at = this.#at.get(name);
    if (at === undefined) return undefined;
    this.#eviction.use(at);
    return this.#held[at]?.value;
  }

  /** Returns what left for it. */
  put(name: string, value: Value): Held<Value> | undefined {
    const at = this.#at.get(name) ?? this.#free();
    const before = this.#held[at];
    const left = before?.name === name ? undefined : before;
    if (left !== undefined) this.#at.delete(left.name);
    this.#held[at] = { name, value };
    this.#at.set(name, at);
    this.#eviction.use(at);
    return left;
  }

  drop(name: string): void {
    const at = this.#at.get(name);
    if (at === undefined) return;
    this.#at.delete(name);
    this.#held[at] = undefined;
    this.#dropped.push(at);
  }

  #free(): number {
    const dropped = this.#dropped.pop();
    if (dropped !== undefined) return dropped;
    if (this.#held.length < this.count) return this.#held.length;
    let least = 0;
    for (let at = 1; at < this.count; at++) if (this.#eviction.worth(at) < this.#eviction.worth(least)) least = at;
    return least;
  }
}
