// The rank that a hash of a prompt's beginning chooses, the same at every gateway.

/** System prompts differ within these tokens. */
const prefixTokens = 64;

/** Rendezvous hash: a rank that joins or leaves moves only its own prefixes. */
export function byHash<T extends { readonly rank: number }>(ranks: readonly T[], prefix: number): T {
  return ranks.reduce((a, b) => (affinity(prefix, b.rank) > affinity(prefix, a.rank) ? b : a));
}

function affinity(prefix: number, rank: number): number {
  return mix(Math.imul(prefix ^ Math.imul(rank + 1, 0x9e3779b1), 0x85ebca6b));
}

/** 32-bit FNV-1a. */
export function prefixHash(prompt: ArrayLike<number>): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < Math.min(prompt.length, prefixTokens); i++) hash = Math.imul(hash ^ (prompt[i] ?? 0), 0x01000193);
  return mix(hash);
}

function mix(value: number): number {
  let x = value ^ (value >>> 16);
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
