// The texts of bounded length that match a regular expression, as an automaton over sets of places.
import { AppError } from "../../../crds/common.ts";
import { type Reach, whole } from "../language.ts";
import { type Expression, type Points, parsePattern } from "./pattern-syntax.ts";
import { type Bounds, countAlike, type Texts } from "./texts.ts";

const placesMax = 500;
const aheadMax = 500_000;
const partsMax = 10_000;
const nextsMax = 256;
/** Steps from place to place that are compared to tell which places are alike: about 10 ms. */
const comparedMax = 200_000;
/** The first places of a state, with which each is compared: what repeats without end stands before what it repeats for. */
const otherPlaces = 4;
/** Places that more may follow are not compared, and so many pairs at a length are. */
const followersMax = 8;
const withinMax = 500;
/** Pairs that are compared between two yields, about 5 ms. */
const pairsAtOnceMax = 2_000;
/** Some KB each; the bytes of a token ask for as many. */
const levelsMax = 512;
const dead = -1;

/** Which code points each place takes, and which places may follow. */
interface Places {
  readonly points: Points[];
  readonly follow: Set<number>[];
  readonly last: Set<number>;
  parts: number;
}

interface Part {
  readonly empty: boolean;
  readonly first: ReadonlySet<number>;
  readonly last: ReadonlySet<number>;
}

/** Texts of `min` to `max` code points. Throws AppError `InvalidRequest`. */
export function textsOfPattern(pattern: string, min: number, max: number, whole = false): Texts {
  const places = placesOf(parsePattern(pattern, whole));
  const lengths = Number.isFinite(max) ? max : min;
  if (pairsOf(places) * (lengths + 1) > aheadMax)
    throw refused(`is too long for ${lengths} characters; shorten it, or lower minLength and maxLength`);
  const ahead = Number.isFinite(max) ? exactly(places, max) : atLeast(places, min);
  return new PatternTexts(places, { min, max, ahead });
}

const pairsOf = ({ follow }: Places): number => follow.reduce((sum, { size }) => sum + size, follow.length);
const refused = (message: string): AppError => new AppError(`pattern: ${message}`, { code: "InvalidRequest" });

function placesOf(expression: Expression): Places {
  const places: Places = { points: [[]], follow: [new Set()], last: new Set(), parts: 0 };
  const part = partOf(expression, places);
  for (const place of part.first) places.follow[0]?.add(place);
  for (const place of part.last) places.last.add(place);
  if (part.empty) places.last.add(0);
  return places;
}

function partOf(expression: Expression, places: Places): Part {
  places.parts += 1;
  if (places.parts > partsMax) throw refused(`has more than ${partsMax} parts with its repetitions; make it shorter`);
  if (expression.kind === "points") {
    if (places.points.length > placesMax) throw refused(`has more than ${placesMax} places with its repetitions; make it shorter`);
    const place = places.points.push(expression.points) - 1;
    places.follow.push(new Set());
    return { empty: false, first: new Set([place]), last: new Set([place]) };
  }
  if (expression.kind === "repeat") return repeated(expression, places);
  if (expression.kind === "either") {
    const parts = expression.of.map((one) => partOf(one, places));
    return { empty: parts.some(({ empty }) => empty), first: union(parts, "first"), last: union(parts, "last") };
  }
  return expression.of.map((one) => partOf(one, places)).reduce((a, b) => joined(a, b, places), nothing);
}

const nothing: Part = { empty: true, first: new Set(), last: new Set() };
const union = (parts: readonly Part[], side: "first" | "last"): Set<number> => new Set(parts.flatMap((part) => [...part[side]]));

function joined(a: Part, b: Part, { follow }: Places): Part {
  for (const place of a.last) for (const next of b.first) follow[place]?.add(next);
  return {
    empty: a.empty && b.empty,
    first: a.empty ? union([a, b], "first") : a.first,
    last: b.empty ? union([a, b], "last") : b.last,
  };
}

/** Each optional part stands within the one before it, so that few places follow each. */
function repeated({ of, min, max }: Extract<Expression, { kind: "repeat" }>, places: Places): Part {
  const endless = !Number.isFinite(max);
  const parts = Array.from({ length: endless ? Math.max(1, min) : max }, () => partOf(of, places));
  if (endless) {
    const { first, last } = parts.at(-1) as Part;
    for (const place of last) for (const next of first) places.follow[place]?.add(next);
  }
  const needed = parts[0]?.empty ? 0 : min;
  const optional = parts.slice(needed).reduceRight((rest, part) => ({ ...joined(part, rest, places), empty: true }), nothing);
  return [...parts.slice(0, needed), optional].reduce((whole, part) => joined(whole, part, places), nothing);
}

/** Per place and length up to `max`: 1 where exactly so many more code points can end the text. */
function exactly(places: Places, max: number): readonly Uint8Array[] {
  const ahead = places.points.map(() => new Uint8Array(max + 1));
  for (const place of places.last) (ahead[place] as Uint8Array)[0] = 1;
  return further(places, ahead);
}

/** Per place and length up to `min`: 1 where at least so many more can end the text. */
function atLeast(places: Places, min: number): readonly Uint8Array[] {
  const ahead = places.points.map(() => new Uint8Array(min + 1));
  const before = places.points.map((): number[] => []);
  for (const [place, nexts] of places.follow.entries()) {
    for (const next of nexts) if ((places.points[next] as Points).length > 0) before[next]?.push(place);
  }
  const found = [...places.last];
  for (const place of found) (ahead[place] as Uint8Array)[0] = 1;
  for (let place = found.pop(); place !== undefined; place = found.pop()) {
    for (const from of before[place] ?? []) {
      if (ahead[from]?.[0] === 1) continue;
      (ahead[from] as Uint8Array)[0] = 1;
      found.push(from);
    }
  }
  return further(places, ahead);
}

function further({ points, follow }: Places, ahead: readonly Uint8Array[]): readonly Uint8Array[] {
  for (let length = 1; length < (ahead[0]?.length ?? 0); length++) {
    for (const [place, nexts] of follow.entries()) {
      for (const next of nexts) {
        if ((points[next] as Points).length === 0 || ahead[next]?.[length - 1] !== 1) continue;
        (ahead[place] as Uint8Array)[length] = 1;
        break;
      }
    }
  }
  return ahead;
}

interface Lengths extends Bounds {
  readonly ahead: readonly Uint8Array[];
}

interface State {
  readonly places: readonly number[];
  readonly count: number;
  /** The texts for which the state stands for all that are alike; undefined for all texts. */
  readonly reach: Reach | undefined;
}

interface Nexts extends State {
  readonly kinds: readonly number[];
}

/** What is known of the places at a count, for texts of a reach. */
interface Level {
  /** Equal where the texts that may follow are the same. */
  readonly classes: Uint16Array;
  /** The key is place * places + other: true where the other has the same texts and more. */
  readonly within: Map<number, boolean>;
  readonly then: Level | undefined;
  /** 1 for a place that may come next, and for one where the text may end. */
  readonly lives: Uint8Array;
  readonly ends: Uint8Array;
}

/** Above the separators of all states around. */
const firstCharacter = 0x100;
const characterOf = (place: number): string => String.fromCharCode(firstCharacter + place);
const reachOf = ({ bytes, ends }: Reach): string => `${bytes}${ends ? "e" : ""}`;
const written = (places: readonly number[], count: number, reach: Reach | undefined): string =>
  `${places.map(characterOf).join("")}/${count}${reach === undefined ? "" : `/${reachOf(reach)}`}`;

/** A state is the set of possible places, and the length where it matters. */
class PatternTexts implements Texts {
  readonly start = written([0], 0, undefined);
  readonly #places: Places;
  readonly lengths: Lengths;
  readonly #kinds: Kinds;
  readonly #follow: readonly (readonly number[])[];
  readonly #pairs: number;
  readonly #nexts = new Map<string, Nexts>();
  readonly #levels = new Map<string, Level>();
  #pairsLeft = 0;

  constructor(places: Places, lengths: Lengths) {
    this.#places = places;
    this.lengths = lengths;
    this.#kinds = kindsOf(places.points);
    this.#follow = places.follow.map((nexts) => [...nexts]);
    this.#pairs = pairsOf(places);
    if (!this.#lives(0, 0)) throw refused("no text has it and the lengths that are asked for");
  }

  step(state: string, point: number): string | undefined {
    const { places, kinds, count, reach } = this.#nextsOf(state);
    const { of, points } = this.#kinds;
    const taken = new Set(kinds.filter((kind) => takes(points[kind], point, point)));
    const next = places.filter((place) => taken.has(of[place] as number));
    return next.length === 0 ? undefined : whole(this.#merged(next, count, reach));
  }

  reaches(state: string, low: number, high: number): boolean {
    return this.#nextsOf(state).kinds.some((kind) => takes(this.#kinds.points[kind], low, high));
  }

  #nextsOf(state: string): Nexts {
    const known = this.#nexts.get(state);
    if (known) return known;
    const { places, count, reach } = read(state);
    const after = this.#after(count);
    const reached = new Set<number>();
    for (const place of places) for (const to of this.#follow[place] as number[]) reached.add(to);
    const living = [...reached].filter((to) => this.#lives(to, after)).sort((a, b) => a - b);
    const kinds = [...new Set(living.map((place) => this.#kinds.of[place] as number))];
    const nexts = { places: living, kinds, count: after, reach: reach && (after === count && !reach.ends ? reach : shorter(reach)) };
    return kept(this.#nexts, { key: state, value: nexts, most: nextsMax });
  }

  /**
   * The shortest path to an end has fewer steps than there are places; longer ones may have any length. The state stands for the others
   * within the reach only, and so do those that follow it.
   */
  *alike(state: string, reach: Reach): Generator<undefined, string> {
    const { min, max } = this.lengths;
    const { places, count, reach: reduced } = read(state);
    if (reduced !== undefined) return state;
    // A distant end may admit some lengths only, so that all places would be compared anew at each count.
    if (Number.isFinite(max) && count < min) return state;
    const alike = countAlike(count, { min, max }, reach.bytes + this.#places.points.length);
    return yield* this.#merged(places, alike, this.#pairs * reach.bytes <= comparedMax ? reach : undefined);
  }

  ends(state: string): boolean {
    const { places, count } = read(state);
    return places.some((place) => this.#end(place, count));
  }

  #end(place: number, count: number): boolean {
    return count >= this.lengths.min && this.#places.last.has(place);
  }

  #after(count: number): number {
    return Number.isFinite(this.lengths.max) ? count + 1 : Math.min(this.lengths.min, count + 1);
  }

  /** Leaves out places whose texts another one has too, within the reach. */
  *#merged(places: readonly number[], count: number, reach: Reach | undefined): Generator<undefined, string> {
    if (reach === undefined || places.length === 1) return written(places, count, reach);
    const level = yield* this.#levelOf(count, reach);
    const seen = new Set<number>();
    const first = places.filter((place) => seen.size < seen.add(level.classes[place] as number).size);
    const dropped = new Set<number>();
    for (const place of first) {
      yield;
      this.#pairsLeft = pairsAtOnceMax;
      const others = first.slice(0, otherPlaces).filter((other) => other !== place && !dropped.has(other));
      if (others.some((other) => this.#isWithin(place, other, level))) dropped.add(place);
    }
    return written(dropped.size === 0 ? first : first.filter((place) => !dropped.has(place)), count, reach);
  }

  /** Made from the shortest reach on, since each is told by the one of the next count. */
  *#levelOf(count: number, reach: Reach): Generator<undefined, Level> {
    const missing: { readonly key: string; readonly count: number; readonly reach: Reach }[] = [];
    let level: Level | undefined;
    for (let at = { count, reach }; level === undefined; at = { count: this.#after(at.count), reach: shorter(at.reach) }) {
      const key = `${at.count}/${reachOf(at.reach)}`;
      level = this.#levels.get(key);
      if (level === undefined) missing.push({ key, ...at });
      if (at.reach.bytes === 0) break;
    }
    for (const { key, ...at } of missing.reverse()) {
      yield;
      level = kept(this.#levels, { key, value: this.#level(at.count, at.reach, level), most: levelsMax });
    }
    return level as Level;
  }

  /** Two places are of one class if the same kinds of places of the same classes may follow, and both may end or none. */
  #level(count: number, reach: Reach, then: Level | undefined): Level {
    const after = this.#after(count);
    const lives = Uint8Array.from(this.#follow, (_, place) => (this.#lives(place, after) ? 1 : 0));
    const ends = Uint8Array.from(this.#follow, (_, place) => (reach.ends && this.#end(place, count) ? 1 : 0));
    const classes = then ? this.#classesOf(lives, ends, then.classes) : new Uint16Array(this.#follow.length);
    return { classes, within: new Map(), then, lives, ends };
  }

  #classesOf(lives: Uint8Array, ends: Uint8Array, then: Uint16Array): Uint16Array {
    const size = this.#follow.length;
    const kindAndClass = Array.from(lives, (living, to) => (living ? (this.#kinds.of[to] as number) * size + (then[to] as number) : dead));
    const numbers = new Map<string | number, number>();
    return Uint16Array.from(this.#follow, (nexts, place) => {
      const [next = dead, ...more] = nexts;
      const one = more.length === 0 && !ends[place] ? (kindAndClass[next] ?? dead) : undefined;
      const name = one ?? `${ends[place]} ${[...new Set(nexts.map((to) => kindAndClass[to] as number))].sort((a, b) => a - b)}`;
      const number = numbers.get(name) ?? numbers.size;
      numbers.set(name, number);
      return number;
    });
  }

  #isWithin(place: number, other: number, level: Level): boolean {
    const { classes, within, then, lives, ends } = level;
    if (then === undefined || classes[place] === classes[other]) return true;
    const key = place * this.#follow.length + other;
    const known = within.get(key);
    if (known !== undefined) return known;
    const most = Math.max((this.#follow[place] as number[]).length, (this.#follow[other] as number[]).length);
    this.#pairsLeft -= 1;
    if (most > followersMax || within.size >= withinMax || this.#pairsLeft < 0) return false; // not told apart is no fault, and costs a longer walk
    const beside = (this.#follow[other] as number[]).filter((to) => lives[to]);
    const isCovered = (to: number): boolean => {
      const by = beside.filter((one) => this.#isWithin(to, one, then)).map((one) => this.#places.points[one] as Points);
      return covers(by, this.#places.points[to] as Points);
    };
    const nexts = (this.#follow[place] as number[]).filter((to) => lives[to]);
    const found = (ends[place] as number) <= (ends[other] as number) && nexts.every(isCovered);
    if (found || this.#pairsLeft >= 0) within.set(key, found);
    return found;
  }

  #lives(place: number, count: number): boolean {
    const { min, max, ahead } = this.lengths;
    const lengths = ahead[place] as Uint8Array;
    const least = Math.max(0, min - count);
    if (!Number.isFinite(max)) return lengths[least] === 1;
    const at = lengths.indexOf(1, least);
    return at >= 0 && at <= max - count;
  }
}

const shorter = ({ bytes, ends }: Reach): Reach => ({ bytes: Math.max(0, bytes - 1), ends });

function kept<T>(cache: Map<string, T>, { key, value, most }: { readonly key: string; readonly value: T; readonly most: number }): T {
  if (cache.size >= most) cache.delete(cache.keys().next().value as string);
  cache.set(key, value);
  return value;
}

function read(state: string): State {
  const [places = "", count, reach] = state.split("/");
  const numbers = Array.from(places, (character) => character.charCodeAt(0) - firstCharacter);
  return {
    places: numbers,
    count: Number(count),
    reach: reach === undefined ? reach : { bytes: Number.parseInt(reach, 10), ends: reach.endsWith("e") },
  };
}

/** Places that take the same code points are of one kind. */
interface Kinds {
  readonly of: readonly number[];
  readonly points: readonly Points[];
}

function kindsOf(all: readonly Points[]): Kinds {
  const names = new Map([...new Set(all)].map((points) => [points, points.join()]));
  const kinds = [...new Set(names.values())];
  const at = new Map(kinds.map((name, kind) => [name, kind]));
  const points: Points[] = [];
  const of = all.map((one) => {
    const kind = at.get(names.get(one) as string) as number;
    points[kind] = one;
    return kind;
  });
  return { of, points };
}

function takes(points: Points | undefined, low: number, high: number): boolean {
  return points?.some(([from, to]) => from <= high && to >= low) === true;
}

function covers(by: readonly Points[], points: Points): boolean {
  return points.every(([low, high]) => {
    let at = low;
    while (at <= high) {
      const range = by.flat().find(([from, to]) => from <= at && to >= at);
      if (range === undefined) return false;
      at = range[1] + 1;
    }
    return true;
  });
}
