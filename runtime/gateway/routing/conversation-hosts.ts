// Which ranks host most of the experts that conversations choose, by the beginnings of their prompts, as ranks tell at the end of
// requests. A turn begins with the prompt of the turn before, so the longest beginning that is known is the conversation's own.
// Bounded: the beginning that was told of longest ago goes first.

import type { HostShare as Message } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";

export type HostShare = Readonly<Pick<Message, "rank" | "share">>;

interface Known {
  readonly samples: number;
  readonly shares: ReadonlyMap<number, number>;
}

/** Whoever sends another salt learns nothing of a prompt: no rank is asked for what none has under it. */
interface Text {
  readonly prompt: ArrayLike<number>;
  readonly cacheSalt?: string;
}

const beginningsMax = 16_384;
/** Of those with most. */
const ranksMax = 8;
/** Beginnings end at multiples of it. */
const blockTokens = 16;
const blocksMax = 128;
/** The average is over so many requests, so that users of one system prompt do not send each other from rank to rank. */
const samplesMost = 8;

export class ConversationHosts {
  readonly #known = new Map<number, Known>();

  learn(text: Text, hosts: readonly HostShare[]): void {
    const shares = hosts.slice(0, ranksMax).filter(({ share }) => share >= 0 && share <= 1);
    if (shares.length === 0) return;
    const hashes = beginnings(text);
    for (const [block, hash] of hashes.entries()) {
      const isKept = block === hashes.length - 1 || Number.isInteger(Math.log2(block + 1));
      if (isKept) this.#add(hash, shares);
    }
  }

  /** 0 to 1 by rank; undefined for a conversation that is not known. */
  of(text: Text): ReadonlyMap<number, number> | undefined {
    const longest = beginnings(text).findLast((hash) => this.#known.has(hash));
    return longest === undefined ? undefined : this.#known.get(longest)?.shares;
  }

  #add(hash: number, shares: readonly HostShare[]): void {
    const before = this.#known.get(hash);
    const samples = Math.min(samplesMost, (before?.samples ?? 0) + 1);
    const average = ({ rank, share }: HostShare): number => {
      const old = before?.shares.get(rank) ?? share;
      return old + (share - old) / samples;
    };
    this.#known.delete(hash);
    this.#known.set(hash, { samples, shares: new Map(shares.map((one) => [one.rank, average(one)])) });
    const [oldest] = this.#known.keys();
    if (this.#known.size > beginningsMax && oldest !== undefined) this.#known.delete(oldest);
  }
}

/** Hashes of a prompt's first 16, 32, ... tokens. */
function beginnings({ prompt, cacheSalt = "" }: Text): number[] {
  const hashes: number[] = [];
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(cacheSalt)) hash = Math.imul(hash ^ byte, 0x01000193);
  for (let block = 0; block < Math.min(blocksMax, Math.floor(prompt.length / blockTokens)); block++) {
    for (let i = block * blockTokens; i < (block + 1) * blockTokens; i++) hash = Math.imul(hash ^ (prompt[i] ?? 0), 0x01000193);
    hashes.push(hash);
  }
  return hashes;
}
