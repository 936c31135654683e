// The ledger of KV slots, pure: who sits where, what has to be copied, which finished prompt can be reused.
// Order of slots: [decoding 0..D-1][prefilling D, if any][kept and empty]. A decode step binds the prefix 0..D-1; when a
// request leaves, the last decoding slot moves into the hole. Kept = prompt of a finished request, reusable as a prefix.
// Only *prefilled* positions are reused: KV written by decode steps differs in the last bits from a prefill of the same tokens.

export interface SlotMove {
  readonly from: number;
  readonly to: number;
  readonly length: number;
}

interface Slot {
  /** Open request, or undefined: kept or empty. */
  owner: string | undefined;
  /** Prompt tokens that were prefilled here; what may be reused. */
  prompt: Uint32Array;
  /** The number of positions that are written. */
  length: number;
  /** Grows with use; the smallest kept slot is given up first. */
  used: number;
}

/** Shorter prefixes are computed again: a copy and its bookkeeping cost as much. */
export const reuseTokensMin = 16;
/** A chunk of one token takes the decode path of a backend and gets other bits, so at least two tokens stay to be computed. */
const computeTokensMin = 2;

export interface Admission {
  readonly slot: number;
  /** Positions that need no computing. */
  readonly reused: number;
}

const empty = (): Slot => ({ owner: undefined, prompt: new Uint32Array(0), length: 0, used: 0 });

export class SlotLedger {
  readonly slots: number;
  readonly #slots: Slot[];
  #decoding = 0;
  #prefilling: string | undefined;
  #clock = 0;
  #moves: SlotMove[] = [];

  constructor(slots: number) {
    this.slots = slots;
    this.#slots = Array.from({ length: slots }, empty);
  }

  /** Requests in slots 0..n-1, in slot order. */
  decoding(): readonly string[] {
    return this.#slots.slice(0, this.#decoding).map(({ owner }) => owner as string);
  }

  get used(): number {
    return this.#decoding + (this.#prefilling === undefined ? 0 : 1);
  }

  /** Slots that nobody uses and that still hold a prompt long enough to be reused. */
  get kept(): number {
    return this.#slots.filter(({ owner, prompt }) => owner === undefined && prompt.length >= reuseTokensMin).length;
  }

  lengthOf(owner: string): number {
    return this.#slotOf(owner).slot.length;
  }

  /** Copies to make, in order, before the next step. */
  takeMoves(): readonly SlotMove[] {
    const moves = this.#moves;
    this.#moves = [];
    return moves;
  }

  /** Gives a request the prefill slot, with the longest kept prefix; undefined when no slot is free or one is prefilling. */
  admit(owner: string, prompt: Uint32Array): Admission | undefined {
    if (this.#prefilling !== undefined || this.#decoding >= this.slots) return undefined;
    const at = this.#decoding;
    const best = this.#longestPrefix(prompt);
    const reused = best?.length ?? 0;
    if (best && best.index !== at) {
      this.#preserve(at, best.index);
      this.#move(best.index, at, reused);
      this.#touch(best.index);
    } else if (!best) this.#preserve(at, undefined);
    this.#slots[at] = { owner, prompt: prompt.slice(0, reused), length: reused, used: ++this.#clock };
    this.#prefilling = owner;
    return { slot: at, reused };
  }

  /** Takes note that so many prompt tokens were prefilled. */
  prefilled(owner: string, tokens: Uint32Array): void {
    const { slot } = this.#slotOf(owner);
    const prompt = new Uint32Array(slot.prompt.length + tokens.length);
    prompt.set(slot.prompt);
    prompt.set(tokens, slot.prompt.length);
    slot.prompt = prompt;
    slot.length = prompt.length;
  }

  /** Lets the prefilling request join the decoding ones. */
  promote(owner: string): void {
    if (this.#prefilling !== owner) throw new RangeError(`${owner} is not prefilling`);
    this.#prefilling = undefined;
    this.#decoding += 1;
  }

  /** Takes note that one decoded position was written. */
  advance(owner: string): void {
    this.#slotOf(owner).slot.length += 1;
  }

  /** Frees a request's slot and keeps its prompt where there is room, unless what was computed for it is not `reusable`. */
  leave(owner: string, reusable = true): void {
    const { index, slot } = this.#slotOf(owner);
    slot.owner = undefined;
    if (!reusable) slot.prompt = new Uint32Array(0);
    slot.length = slot.prompt.length;
    slot.used = ++this.#clock;
    if (this.#prefilling === owner) {
      this.#prefilling = undefined;
      return;
    }
    const last = this.#decoding - 1;
    this.#decoding = last;
    const prefilling = this.#prefilling !== undefined;
    if (index === last && !prefilling) return;
    this.#preserve(index, undefined);
    if (index !== last) this.#relocate(last, index);
    if (prefilling) this.#relocate(last + 1, last);
  }

  #slotOf(owner: string): { index: number; slot: Slot } {
    const index = this.#slots.findIndex((slot) => slot.owner === owner);
    const slot = this.#slots[index];
    if (!slot) throw new RangeError(`${owner} has no slot`);
    return { index, slot };
  }

  #longestPrefix(prompt: Uint32Array): { index: number; length: number } | undefined {
    let best: { index: number; length: number } | undefined;
    for (const [index, slot] of this.#slots.entries()) {
      if (index < this.#decoding) continue; // their slots are being written; a running request's prompt could be copied too, later
      const limit = Math.min(slot.prompt.length, prompt.length - computeTokensMin);
      let length = 0;
      while (length < limit && slot.prompt[length] === prompt[length]) length += 1;
      if (length >= reuseTokensMin && length > (best?.length ?? 0)) best = { index, length };
    }
    return best;
  }

  /** Moves what slot `index` keeps to an empty slot, or over the least used kept one that is older; else it is lost. */
  #preserve(index: number, source: number | undefined): void {
    const slot = this.#slots[index] as Slot;
    if (slot.owner !== undefined || slot.prompt.length < reuseTokensMin) return;
    let target: number | undefined;
    for (let i = this.used + (this.#prefilling === undefined ? 1 : 0); i < this.slots; i++) {
      const other = this.#slots[i] as Slot;
      if (i === index || i === source || other.owner !== undefined || other.used >= slot.used) continue;
      if (target === undefined || other.used < (this.#slots[target] as Slot).used) target = i;
    }
    if (target === undefined) return;
    this.#move(index, target, slot.prompt.length);
    this.#slots[target] = { ...slot };
  }

  #relocate(from: number, to: number): void {
    const slot = this.#slots[from] as Slot;
    this.#move(from, to, slot.length);
    this.#slots[to] = slot;
    this.#slots[from] = empty();
  }

  #move(from: number, to: number, length: number): void {
    if (length > 0 && from !== to) this.#moves.push({ from, to, length });
  }

  #touch(index: number): void {
    (this.#slots[index] as Slot).used = ++this.#clock;
  }
}

interface SlotSpec {
  readonly layers: number;
  readonly kvHeads: number;
  readonly context: number;
  readonly headDim: number;
  readonly valueDim: number;
}

/** Bytes of one slot: a key and a value of every head, position and layer. */
export function slotBytes({ layers, kvHeads, context, headDim, valueDim }: SlotSpec): number {
  return layers * kvHeads * context * (headDim + valueDim) * Float32Array.BYTES_PER_ELEMENT;
}

/** Slots that a pool holds; 0 when it is smaller than one. */
export function slotsOf(poolBytes: number, spec: SlotSpec): number {
  return Math.floor(poolBytes / slotBytes(spec));
}
