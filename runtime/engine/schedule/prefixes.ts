// The index of token prefixes in KV memory, pure.

export const reuseTokensMin = 16;

export interface Holder {
  /** Computed tokens; those beyond `reusable` may be anything. */
  tokens: Uint32Array;
  reusable: number;
  readonly hashes: number[];
}

export interface Found<T> {
  readonly holder: T;
  readonly length: number;
}

export class PrefixIndex<T extends Holder> {
  readonly #holders = new Map<number, Set<T>>();

  update(holder: T): void {
    const { tokens, hashes } = holder;
    const count = Math.floor(holder.reusable / reuseTokensMin);
    while (hashes.length > count) {
      const hash = hashes.pop() as number;
      const holders = this.#holders.get(hash);
      // A chain repeats a hash only by collision; the lost entry costs reuse only.
      holders?.delete(holder);
      if (holders?.size === 0) this.#holders.delete(hash);
    }
    while (hashes.length < count) {
      const hash = chained(hashes.at(-1) ?? 0, tokens, hashes.length * reuseTokensMin);
      hashes.push(hash);
      const holders = this.#holders.get(hash) ?? new Set();
      this.#holders.set(hash, holders.add(holder));
    }
  }

  find(prompt: Uint32Array, limit: number, before: (a: T, b: T) => boolean): Found<T> | undefined {
    let holders: Set<T> | undefined;
    let matched = 0;
    for (let hash = 0; matched + reuseTokensMin <= limit; matched += reuseTokensMin) {
      hash = chained(hash, prompt, matched);
      const next = this.#holders.get(hash);
      if (next === undefined) break;
      holders = next;
    }
    let best: Found<T> | undefined;
    for (const holder of holders ?? []) {
      const length = commonLength(holder, prompt, matched, limit);
      if (best === undefined || length > best.length || (length === best.length && before(holder, best.holder))) best = { holder, length };
    }
    return best && commonLength(best.holder, prompt, 0, matched) === matched ? best : undefined;
  }
}

/** FNV-1a over whole tokens, then a final mix. */
function chained(before: number, tokens: Uint32Array, from: number): number {
  let hash = before ^ 0x811c9dc5;
  for (let i = from; i < from + reuseTokensMin; i++) {
    hash = Math.imul(hash ^ (tokens[i] as number), 0x01000193);
    hash ^= hash >>> 15;
  }
  return Math.imul(hash ^ (hash >>> 13), 0x5bd1e995) >>> 0;
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
