// The index of token prefixes in KV memory, pure, by the identity that they have at every rank.

import { movedKv } from "../../../crds/common.ts";

export const reuseTokensMin = movedKv.step;

/**
 * The identity of a prefix, which no two have in common: that of all but its last `reuseTokensMin` tokens (without any the chain's start),
 * and these. Model and class of bits are part of it.
 */
export type PrefixId = (before: string, tokens: Uint32Array) => string;

/** `start`: the same for all texts that may share what was computed. */
interface Chain {
  readonly start: string;
  readonly ids: string[];
}

export interface Holder extends Chain {
  /** Computed tokens; those beyond `reusable` may be anything. */
  tokens: Uint32Array;
  reusable: number;
}

export interface Text {
  readonly tokens: Uint32Array;
  /** Of its chain; unset = "". */
  readonly start?: string | undefined;
}

/** Blocks by the id at their end; a lost one may be one that was never told. */
export interface ChangedPrefixes {
  readonly gained: readonly string[];
  readonly lost: readonly string[];
}

export interface Found<T> {
  readonly holder: T;
  readonly length: number;
}

export class PrefixIndex<T extends Holder> {
  readonly #idOf: PrefixId;
  readonly #holders = new Map<string, Set<T>>();
  /** Ids of whole blocks (movedKv.tokens) that came or went since they were told. */
  readonly #changed = new Set<string>();
  /** Of texts that were looked for. */
  readonly #chains = new WeakMap<Uint32Array, Chain>();

  constructor(idOf: PrefixId) {
    this.#idOf = idOf;
  }

  update(holder: T): void {
    const { tokens, ids } = holder;
    const count = Math.floor(holder.reusable / reuseTokensMin);
    while (ids.length > count) {
      const id = ids.pop() as string;
      const holders = this.#holders.get(id);
      holders?.delete(holder);
      if (holders?.size !== 0) continue;
      this.#holders.delete(id);
      this.#note(id, ids.length + 1);
    }
    while (ids.length < count) {
      const id = this.#grow(holder, tokens);
      const holders = this.#holders.get(id);
      if (holders === undefined) this.#note(id, ids.length);
      this.#holders.set(id, (holders ?? new Set()).add(holder));
    }
  }

  /** Since the last call; undefined: none. */
  takeChanged(): ChangedPrefixes | undefined {
    if (this.#changed.size === 0) return undefined;
    const ids = [...this.#changed];
    this.#changed.clear();
    return { gained: ids.filter((id) => this.#holders.has(id)), lost: ids.filter((id) => !this.#holders.has(id)) };
  }

  /** Those that have the prefix of this identity. */
  having(id: string): Iterable<T> {
    return this.#holders.get(id) ?? [];
  }

  /** The identity of so many tokens of a text, a multiple of `reuseTokensMin`. */
  idOf({ tokens, start = "" }: Text, length: number): string {
    if (length === 0) return start;
    const known = this.#chains.get(tokens);
    const chain = known?.start === start ? known : { start, ids: [] };
    this.#chains.set(tokens, chain);
    while (chain.ids.length * reuseTokensMin < length) this.#grow(chain, tokens);
    return chain.ids[length / reuseTokensMin - 1] as string;
  }

  find(text: Text, limit: number, before: (a: T, b: T) => boolean): Found<T> | undefined {
    let holders: Set<T> | undefined;
    let matched = 0;
    for (; matched + reuseTokensMin <= limit; matched += reuseTokensMin) {
      const next = this.#holders.get(this.idOf(text, matched + reuseTokensMin));
      if (next === undefined) break;
      holders = next;
    }
    let best: Found<T> | undefined;
    for (const holder of holders ?? []) {
      const length = commonLength(holder, text.tokens, matched, limit);
      if (best === undefined || length > best.length || (length === best.length && before(holder, best.holder))) best = { holder, length };
    }
    return best;
  }

  #note(id: string, at: number): void {
    if ((at * reuseTokensMin) % movedKv.tokens === 0) this.#changed.add(id);
  }

  #grow({ start, ids }: Chain, tokens: Uint32Array): string {
    const from = ids.length * reuseTokensMin;
    const id = this.#idOf(ids.at(-1) ?? start, tokens.subarray(from, from + reuseTokensMin));
    ids.push(id);
    return id;
  }
}

function commonLength({ tokens, reusable }: Holder, prompt: Uint32Array, from: number, limit: number): number {
  const end = Math.min(reusable, limit);
  return from + commonTokens(tokens.subarray(from, end), prompt.subarray(from, end));
}

export function commonTokens(a: Uint32Array, b: Uint32Array): number {
  const end = Math.min(a.length, b.length);
  let length = 0;
  while (length < end && a[length] === b[length]) length += 1;
  return length;
}
