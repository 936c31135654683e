// The texts that a string of a schema may have, told code point by code point: by their length, or by a list of them.

/** An automaton over code points. States are strings, equal exactly when the same may follow, and never such that no text goes on. */
export interface Texts {
  readonly start: string;
  /** The state after one more code point; undefined where no text goes on so. */
  step(state: string, point: number): string | undefined;
  /** True where some code point from `low` to `high` may come next. */
  reaches(state: string, low: number, high: number): boolean;
  /** One state for all those that at most so many code points go on from alike. */
  alike(state: string, points: number): string;
  ends(state: string): boolean;
}

/** One count for all those from which at most so many steps more reach neither bound. */
export function countAlike(count: number, { min, max }: { readonly min: number; readonly max: number }, steps: number): number {
  if (count < min) return count + steps <= min ? min - steps : count;
  return count + steps <= max && Number.isFinite(max) ? max - steps : count;
}

/** Texts of `min` to `max` code points. */
export function textsOfLength(min: number, max: number): Texts {
  const cap = Number.isFinite(max) ? max : min; // from there on the same may follow
  return {
    start: "0",
    step: (state) => (Number(state) >= max ? undefined : `${Math.min(cap, Number(state) + 1)}`),
    reaches: (state) => Number(state) < max,
    alike: (state, points) => `${countAlike(Number(state), { min, max }, points)}`,
    ends: (state) => Number(state) >= min,
  };
}

interface Branch {
  readonly next: Map<number, number>;
  /** The places in the list of the texts that begin so, as bits. */
  below: bigint;
  /** The place in the list of the text that ends here. */
  text: number | undefined;
}

/** A list of texts as the tree of their beginnings. */
export class TextList implements Texts {
  readonly start = "0";
  readonly texts: readonly string[];
  readonly #places: ReadonlyMap<string, number>;
  readonly #branches: Branch[] = [{ next: new Map(), below: 0n, text: undefined }];

  constructor(texts: readonly string[]) {
    this.texts = texts;
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

  /** The place of a text in the list; undefined where it is not there. */
  placeOf(text: string): number | undefined {
    return this.#places.get(text);
  }

  /** Texts that begin so, as bits by their place. */
  below(state: string): bigint {
    return this.#at(state).below;
  }

  /** The place of the text that ends here. */
  textAt(state: string): number | undefined {
    return this.#at(state).text;
  }

  /** True where a code point between these leads on to one of the texts whose bits are given. */
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

/** The keys that may come in an object: names that it does not have yet, and others where it takes them. */
export class Keys implements Texts {
  readonly start = "0";
  readonly #names: TextList;
  readonly #open: bigint;
  readonly #others: boolean;

  /** `open`: the names that may come, as bits by their place. */
  constructor(names: TextList, open: bigint, others: boolean) {
    this.#names = names;
    this.#open = open;
    this.#others = others;
  }

  /** False where no key may come. */
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

  /** The place of the name that a key is; undefined for another. */
  nameAt(state: string): number | undefined {
    return state === other ? undefined : this.#names.textAt(state);
  }
}

/** The state of a key that begins like no name. */
const other = "*";
