// A slot of KV memory and the blocks in it, pure.
import { movedKv } from "../../../crds/common.ts";
import { type Holder, reuseTokensMin } from "./prefixes.ts";

export interface Slot extends Holder {
  index: number;
  start: string;
  /** The open request; undefined: reusable or empty. */
  owner: string | undefined;
  length: number;
  /** The blocks of `length`, and those promised to an open request. */
  blocks: number;
  /** Logical time; the lowest is evicted first. */
  used: number;
}

/** `id`: that of all tokens up to `to`; `before`: of those up to `from`, without any the start of their chain. */
export interface KvBlock {
  readonly id: string;
  readonly before: string;
  readonly from: number;
  readonly to: number;
}

export type HeldBlock = Omit<KvBlock, "before">;

export const empty = (index: number): Slot => ({
  index,
  owner: undefined,
  tokens: new Uint32Array(0),
  length: 0,
  reusable: 0,
  blocks: 0,
  used: 0,
  start: "",
  ids: [],
});

/** The blocks that a slot holds, the last one also where it is shorter. */
export function blocksOf({ ids }: Pick<Slot, "ids">): HeldBlock[] {
  const end = ids.length * reuseTokensMin;
  return Array.from({ length: Math.ceil(end / movedKv.tokens) }, (_, at) => {
    const [from, to] = [at * movedKv.tokens, Math.min((at + 1) * movedKv.tokens, end)];
    return { id: ids[to / reuseTokensMin - 1] as string, from, to };
  });
}

export function append(slot: Slot, tokens: Uint32Array): void {
  const length = slot.length + tokens.length;
  if (slot.tokens.length < length) {
    const larger = new Uint32Array(Math.max(length, 2 * slot.tokens.length));
    larger.set(slot.tokens.subarray(0, slot.length));
    slot.tokens = larger;
  }
  slot.tokens.set(tokens, slot.length);
  slot.length = length;
}
