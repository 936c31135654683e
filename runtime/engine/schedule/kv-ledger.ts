// The ledger of KV memory, pure: slots, blocks, copies and moves, reusable prefixes (../DECISIONS.md 5).
import { movedKv } from "../../../crds/common.ts";
import { append, blocksOf, empty, type HeldBlock, type KvBlock, type Slot } from "./kv-slot.ts";
import { type ChangedPrefixes, type Found, type PrefixId, PrefixIndex, reuseTokensMin, type Text } from "./prefixes.ts";

export type SlotChange =
  /** After a copy both slots have these positions; after a move the first slot is empty. */
  | { readonly kind: "copy" | "move"; readonly from: number; readonly to: number; readonly length: number }
  | { readonly kind: "trim"; readonly slot: number; readonly length: number }
  /** A block of a tier, `length` positions behind `from`; those before `from` are there. */
  | { readonly kind: "write"; readonly slot: number; readonly from: number; readonly length: number; readonly data: Uint8Array };

export interface KvPool {
  readonly slots: number;
  readonly context: number;
  /** The pool has at least the blocks of one whole context. */
  readonly blocks: number;
  readonly blockTokens: number;
}

export interface Admission {
  readonly slot: number;
  readonly reused: number;
  /** Those of `reused` that a tier had; unset = 0. */
  readonly restored?: number;
}

/** A place beside KV memory for blocks that begin at multiples of `movedKv.tokens`. */
export interface KvTier {
  has(id: string): boolean;
  take(id: string): Uint8Array | undefined;
  /** These may be evicted from now on. */
  left(blocks: readonly HeldBlock[]): void;
}

export class SlotLedger {
  readonly #pool: KvPool;
  readonly #slots: Slot[];
  readonly #owners = new Map<string, Slot>();
  readonly #index: PrefixIndex<Slot>;
  readonly #tier: KvTier | undefined;
  #decoding = 0;
  #prefilling = 0;
  #held = false;
  /** Empty slots before the prefilling ones, which are to move into them. */
  #gap = 0;
  #clock = 0;
  #changes: SlotChange[] = [];

  constructor(pool: KvPool, idOf: PrefixId, tier?: KvTier) {
    this.#pool = pool;
    this.#tier = tier;
    this.#index = new PrefixIndex(idOf);
    this.#slots = Array.from({ length: pool.slots }, (_, index) => empty(index));
  }

  /** They occupy slots 0..n-1. */
  decoding(): readonly string[] {
    return this.#slots.slice(0, this.#decoding).map(({ owner }) => owner as string);
  }

  /** They come in slot order, after the decoding ones. */
  prefilling(): readonly string[] {
    return this.#slots.slice(this.#decoding + this.#gap, this.used).map(({ owner }) => owner as string);
  }

  get used(): number {
    return this.#decoding + this.#gap + this.#prefilling;
  }

  /** While it is set, prefilling slots stay where they are. */
  set held(on: boolean) {
    this.#held = on;
    const gap = this.#gap;
    if (on || gap === 0) return;
    const end = this.used;
    for (let at = end - this.#prefilling; at < end; at++) this.#move(at, at - gap);
    this.#gap = 0;
  }

  get kept(): number {
    return this.#slots.filter(({ owner, length }) => owner === undefined && length > 0).length;
  }

  get blocksUsed(): number {
    return this.#slots.reduce((sum, { owner, blocks }) => sum + (owner === undefined ? 0 : blocks), 0);
  }

  get blocksKept(): number {
    return this.#slots.reduce((sum, { owner, blocks }) => sum + (owner === undefined ? blocks : 0), 0);
  }

  lengthOf(owner: string): number {
    return this.#slotOf(owner).length;
  }

  indexOf(owner: string): number {
    return this.#slotOf(owner).index;
  }

  takeChanges(): readonly SlotChange[] {
    const changes = this.#changes;
    this.#changes = [];
    return changes;
  }

  takePrefixes(): ChangedPrefixes | undefined {
    return this.#index.takeChanged();
  }

  reusable(text: Text): number {
    let length = this.#index.find(text, text.tokens.length - 1, () => false)?.length ?? 0;
    for (let next = this.#inTier(text, length); next !== undefined; next = this.#inTier(text, length)) length = next.to;
    return length;
  }

  /** What of a text is here, in multiples of `reuseTokensMin` or a tier's blocks, and the blocks behind that, without the last token. */
  blocksBehind(text: Text): { readonly here: number; readonly blocks: readonly KvBlock[] } {
    const whole = (length: number, step: number = reuseTokensMin): number => length - (length % step);
    const here = whole(this.reusable(text), this.#tier && movedKv.tokens);
    const end = whole(Math.max(0, text.tokens.length - 1));
    const blocks: KvBlock[] = [];
    for (let from = here; from < end; ) {
      const to = Math.min(from + movedKv.tokens, end);
      blocks.push({ id: this.#index.idOf(text, to), before: this.#index.idOf(text, from), from, to });
      from = to;
    }
    return { here, blocks };
  }

  /** A slot that has the block and all before it; undefined also for an id that ends elsewhere. */
  holderOf({ id, to }: Pick<KvBlock, "id" | "to">): { readonly index: number } | undefined {
    return [...this.#index.having(id)].find(({ ids }) => ids[to / reuseTokensMin - 1] === id);
  }

  /** The same, which is evicted last then. */
  slotWith(block: Pick<KvBlock, "id" | "to">): { readonly index: number } | undefined {
    const slot = this.#slots[this.holderOf(block)?.index ?? -1];
    if (slot !== undefined && slot.owner === undefined) slot.used = ++this.#clock;
    return slot;
  }

  /** A reusable slot that ends where the block begins, with room for it; undefined when there is none. */
  slotFor({ before, from, to }: Omit<KvBlock, "id">): { readonly index: number } | undefined {
    if (to > this.#pool.context) return undefined;
    const blocks = this.#blocksOf(to);
    const slot = this.blocksUsed + blocks > this.#pool.blocks ? undefined : this.#endingAt(before, from);
    if (slot === undefined || !this.#freeBlocks(blocks - slot.blocks, slot)) return undefined;
    slot.used = ++this.#clock;
    return slot;
  }

  /** Positions behind those of `slotFor` were written, with nothing else in between. */
  wrote({ index }: { readonly index: number }, tokens: Uint32Array): void {
    const slot = this.#slots[index] as Slot;
    append(slot, tokens);
    slot.blocks = this.#blocksOf(slot.length);
    this.#reusable(slot, slot.length);
  }

  /** Undefined when a slot or blocks are missing. */
  admit(owner: string, text: Text, whole = false): Admission | undefined {
    const at = this.used;
    if (at >= this.#pool.slots) return undefined;
    const blocks = this.#blocksOf(text.tokens.length);
    const growing = this.#slots.slice(0, at).filter((slot) => slot.blocks < this.#blocksOf(this.#pool.context)).length;
    const spare = growing + (blocks < this.#blocksOf(this.#pool.context) ? 1 : 0);
    if (this.blocksUsed + blocks + spare > this.#pool.blocks) return undefined;
    const wanted = whole ? { tokens: new Uint32Array(0) } : text;
    const found = this.#bring(wanted, at, blocks);
    const slot = this.#slots[at] as Slot;
    slot.start = text.start ?? "";
    slot.owner = owner;
    slot.blocks = blocks;
    slot.used = ++this.#clock;
    this.#owners.set(owner, slot);
    this.#prefilling += 1;
    const restored = this.#restore(slot, wanted);
    return { slot: at, reused: found + restored, ...(restored > 0 ? { restored } : {}) };
  }

  grow(owner: string, length: number): boolean {
    const slot = this.#slotOf(owner);
    const more = this.#blocksOf(length) - slot.blocks;
    if (more > 0 && !this.#freeBlocks(more, undefined)) return false;
    slot.blocks = Math.max(slot.blocks, this.#blocksOf(length));
    return true;
  }

  prefilled(owner: string, tokens: Uint32Array): void {
    const slot = this.#slotOf(owner);
    append(slot, tokens);
    this.#reusable(slot, slot.length);
  }

  promote(owner: string): void {
    if (this.prefilling()[0] !== owner) throw new RangeError(`${owner} is not the first that prefills`);
    this.#prefilling -= 1;
    this.#decoding += 1;
  }

  advance(owner: string, token: number): void {
    const slot = this.#slotOf(owner);
    append(slot, Uint32Array.of(token));
    this.#reusable(slot, slot.length);
  }

  /** Its positions stay reusable if they fit, unless `reusable` is false. */
  leave(owner: string, reusable = true): void {
    const slot = this.#slotOf(owner);
    this.#owners.delete(owner);
    slot.owner = undefined;
    slot.used = ++this.#clock;
    this.#cut(slot, reusable ? slot.reusable : 0);
    this.#tier?.left(blocksOf(slot));
    const hole = slot.index;
    const decoded = hole < this.#decoding;
    if (decoded) this.#decoding -= 1;
    else this.#prefilling -= 1;
    const [last, end] = [decoded ? this.#decoding : hole, this.used];
    if (hole === end) return;
    this.#clear(hole);
    if (hole !== last) this.#move(last, hole);
    if (decoded && this.#held) this.#gap += 1;
    else for (let at = last; at < end; at++) this.#move(at + 1, at);
  }

  #slotOf(owner: string): Slot {
    const slot = this.#owners.get(owner);
    if (!slot) throw new RangeError(`${owner} has no slot`);
    return slot;
  }

  #blocksOf(length: number): number {
    return Math.ceil(length / this.#pool.blockTokens);
  }

  #reusable(slot: Slot, length: number): void {
    slot.reusable = length;
    this.#index.update(slot);
  }

  /** Brings the longest prefix of `text` into slot `at`; returns its length. */
  #bring(text: Text, at: number, blocks: number): number {
    const kept = ({ owner }: Slot, other: Slot): boolean => owner === undefined && other.owner !== undefined;
    const found = this.#index.find(text, text.tokens.length - 1, kept);
    if (found !== undefined) return this.#take(found, at, blocks);
    this.#freeBlocks(blocks, undefined);
    this.#clear(at);
    return 0;
  }

  #take({ holder, length }: Found<Slot>, at: number, blocks: number): number {
    holder.used = ++this.#clock;
    if (this.#yields(holder, { length, at, blocks })) {
      this.#cut(holder, length);
      this.#freeBlocks(blocks - holder.blocks, holder);
      if (holder.index === at) return length;
      this.#clear(at);
      this.#move(holder.index, at);
      return length;
    }
    this.#freeBlocks(blocks, holder);
    this.#clear(at);
    this.#changes.push({ kind: "copy", from: holder.index, to: at, length });
    const slot = this.#slots[at] as Slot;
    slot.start = holder.start;
    append(slot, holder.tokens.subarray(0, length));
    this.#reusable(slot, length);
    return length;
  }

  /** The longest block of the tier that goes on behind so many positions of a text, and begins at or before their end. */
  #inTier(text: Text, length: number): HeldBlock | undefined {
    if (this.#tier === undefined) return undefined;
    const from = length - (length % movedKv.tokens);
    for (let to = from + movedKv.tokens; to > length; to -= reuseTokensMin) {
      const id = to < text.tokens.length ? this.#index.idOf(text, to) : undefined;
      if (id !== undefined && this.#tier.has(id)) return { id, from, to };
    }
    return undefined;
  }

  /** Writes what the tier has behind a slot's positions; returns how many those are. */
  #restore(slot: Slot, text: Text): number {
    const { index, length: found } = slot;
    for (let next = this.#inTier(text, slot.length); next !== undefined; next = this.#inTier(text, slot.length)) {
      const { id, from, to } = next;
      const data = this.#tier?.take(id);
      if (data === undefined) break;
      this.#changes.push({ kind: "write", slot: index, from, length: to - from, data });
      append(slot, text.tokens.subarray(slot.length, to));
      this.#reusable(slot, to);
    }
    return slot.length - found;
  }

  #endingAt(before: string, length: number): Slot | undefined {
    const at = this.used;
    const having = length === 0 ? [] : [...this.#index.having(before)];
    const own = having.find((slot) => slot.owner === undefined && slot.length === length);
    if (own !== undefined || at >= this.#pool.slots || (length > 0 && having.length === 0)) return own;
    const [blocks, [holder]] = [this.#blocksOf(length), having];
    if (holder === undefined) this.#clear(at);
    else this.#take({ holder, length }, at, blocks);
    const slot = this.#slots[at] as Slot;
    if (holder === undefined) slot.start = before;
    slot.blocks = blocks;
    return slot;
  }

  /** True where a prefix is moved instead of copied, since the rest of its slot is worthless or does not fit. */
  #yields(holder: Slot, { length, at, blocks }: { readonly length: number; readonly at: number; readonly blocks: number }): boolean {
    if (holder.owner !== undefined) return false;
    if (holder.reusable - length < reuseTokensMin || (holder.index === at && !this.#placeFor(holder))) return true;
    return !this.#freeBlocks(blocks, holder);
  }

  /** Evicts reusable blocks, except those of `spared`. */
  #freeBlocks(blocks: number, spared: Slot | undefined): boolean {
    for (;;) {
      const missing = blocks - (this.#pool.blocks - this.blocksUsed - this.blocksKept);
      if (missing <= 0) return true;
      const oldest = this.#oldest((slot) => slot !== spared);
      if (oldest === undefined) return false;
      this.#cut(oldest, Math.max(0, oldest.blocks - missing) * this.#pool.blockTokens);
    }
  }

  #oldest(where: (slot: Slot) => boolean): Slot | undefined {
    let oldest: Slot | undefined;
    for (const slot of this.#slots) {
      if (slot.owner !== undefined || slot.length === 0 || !where(slot)) continue;
      if (oldest === undefined || slot.used < oldest.used) oldest = slot;
    }
    return oldest;
  }

  #cut(slot: Slot, length: number): void {
    const wanted = Math.min(length, slot.length);
    const left = slot.owner === undefined && wanted < reuseTokensMin ? 0 : wanted;
    const blocks = this.#blocksOf(left);
    if (left < slot.length || blocks < slot.blocks) this.#changes.push({ kind: "trim", slot: slot.index, length: left });
    slot.length = left;
    slot.blocks = blocks;
    this.#reusable(slot, Math.min(slot.reusable, left));
  }

  #clear(index: number): void {
    const slot = this.#slots[index] as Slot;
    if (slot.owner !== undefined || slot.length === 0) return;
    const place = this.#placeFor(slot);
    this.#cut(place ?? slot, 0);
    if (place !== undefined) this.#move(index, place.index);
  }

  #placeFor(slot: Slot): Slot | undefined {
    const { used } = this;
    const free = (other: Slot): boolean => other.owner === undefined && other.index >= used && other !== slot;
    return this.#slots.find((other) => other.length === 0 && free(other)) ?? this.#oldest((other) => other.used < slot.used && free(other));
  }

  #move(from: number, to: number): void {
    const [slot, other] = [this.#slots[from] as Slot, this.#slots[to] as Slot];
    if (slot.blocks > 0) this.#changes.push({ kind: "move", from, to, length: slot.length });
    [this.#slots[from], this.#slots[to]] = [other, slot];
    [slot.index, other.index] = [to, from];
  }
}
