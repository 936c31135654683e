// The allowed texts of a string, by length or as a list.
import type { Reach, Unhurried } from "../language.ts";

/** An automaton over code points. States are strings, equal exactly if the same may follow; every state can reach an end. */
export interface Texts {
  readonly start: string;
  /** Undefined where no text continues so. */
  step(state: string, point: number): string | undefined;
  /** True if a code point from `low` to `high` may come next. */
  reaches(state: string, low: number, high: number): boolean;
  /** The same state for those that texts of this reach cannot tell apart; each byte completes one code point at most. */
  alike(state: string, reach: Reach): Unhurried;
  ends(state: string): boolean;
  /** In code points. */
  readonly lengths: Bounds;
}

export interface Bounds {
  readonly min: number;
  readonly max: number;
}

export const areApart = (a: Bounds, b: Bounds): boolean => a.max < b.min || b.max < a.min;

/** The same for counts that reach neither bound within so many steps. */
export function countAlike(count: number, { min, max }: Bounds, steps: number): number {
  if (count < min) return count + steps <= min ? min - steps : count;
  return count + steps <= max && Number.isFinite(max) ? max - steps : count;
}

export function textsOfLength(min: number, max: number): Texts {
  const cap = Number.isFinite(max) ? max : min;
  return {
    start: "0",
    step: (state) => (Number(state) >= max ? undefined : `${Math.min(cap, Number(state) + 1)}`),
    reaches: (state) => Number(state) < max,
    alike: (state, { bytes }) => `${countAlike(Number(state), { min, max }, bytes)}`,
    ends: (state) => Number(state) >= min,
    lengths: { min, max },
  };
}

interface Branch {
  readonly next: Map<number, number>;
  below: bigint;
  text: number | undefined;
}

export class TextList implements Texts {
  readonly start = "0";
  readonly texts: readonly string[];
  readonly lengths: Bounds;
  readonly #places: ReadonlyMap<string, number>;
  readonly #branches: Branch[] = [{ next: new Map(), below: 0n, text: undefined }];

  constructor(texts: readonly string[]) {
    this.texts = texts;
    const lengths = texts.map((text) => [...text].length);
    this.lengths = { min: Math.min(...lengths), max: Math.max(...lengths) };
    this.#places = new Map(texts.map((text, place) => [text, place]));
    for (const [place, text] of texts.entries()) this.#add(text, place);
  }

  step(state: string, point: number): string | undefined {
    const next = this.#at(state).next.get(point);
    return next === undefined ? undefined : `${next}`;
  }

  reaches(state: string, low: number, high: number): boolean {
    return this.reachesSome(state, { low, high }, this.#at(state).below);
  }

  alike(state: string): string {
    return state;
  }

  ends(state: string): boolean {
    return this.textAt(state) !== undefined;
  }

  /** Undefined for a text that is not in the list. */
  placeOf(text: string): number | undefined {
    return this.#places.get(text);
  }

  below(state: string): bigint {
    return this.#at(state).below;
  }

  textAt(state: string): number | undefined {
    return this.#at(state).text;
  }

  reachesSome(state: string, { low, high }: { readonly low: number; readonly high: number }, texts: bigint): boolean {
    for (const [point, to] of this.#at(state).next) {
      if (point >= low && point <= high && (this.#at(`${to}`).below & texts) !== 0n) return true;
    }
    return false;
  }

  #at(state: string): Branch {
    return this.#branches[Number(state)] as Branch;
  }

  #add(text: string, place: number): void {
    let branch = this.#branches[0] as Branch;
    const bit = 1n << BigInt(place);
    branch.below |= bit;
    for (const character of text) {
      const point = character.codePointAt(0) as number;
      let to = branch.next.get(point);
      if (to === undefined) {
        to = this.#branches.push({ next: new Map(), below: 0n, text: undefined }) - 1;
        branch.next.set(point, to);
      }
      branch = this.#branches[to] as Branch;
      branch.below |= bit;
    }
    branch.text = place;
  }
}

/** The allowed keys of an object: its missing names, and others where it takes them. */
export class Keys implements Texts {
  readonly start = "0";
  readonly lengths = { min: 0, max: Number.POSITIVE_INFINITY };
  readonly #names: TextList;
  readonly #open: bigint;
  readonly #others: boolean;

  /** `open`: the allowed names, as bits by index. */
  constructor(names: TextList, open: bigint, others: boolean) {
    this.#names = names;
    this.#open = open;
    this.#others = others;
  }

  get any(): boolean {
    return this.#others || this.#open !== 0n;
  }

  step(state: string, point: number): string | undefined {
    const next = state === other ? undefined : this.#names.step(state, point);
    if (next !== undefined && (this.#others || (this.#names.below(next) & this.#open) !== 0n)) return next;
    return this.#others ? other : undefined;
  }

  reaches(state: string, low: number, high: number): boolean {
    return this.#others || this.#names.reachesSome(state, { low, high }, this.#open);
  }

  alike(state: string): string {
    return state;
  }

  ends(state: string): boolean {
    const name = this.nameAt(state);
    return name === undefined ? this.#others : ((this.#open >> BigInt(name)) & 1n) === 1n;
  }

  /** Undefined for a key that is no name. */
  nameAt(state: string): number | undefined {
    return state === other ? undefined : this.#names.textAt(state);
  }
}

/** The state of a key that is no prefix of a name. */
const other = "*";
