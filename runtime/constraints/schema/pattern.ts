// The texts of bounded length that match a regular expression, as an automaton over sets of places.
import { AppError } from "../../../crds/common.ts";
import { type Expression, type Points, parsePattern } from "./pattern-syntax.ts";
import { countAlike, type Texts } from "./texts.ts";

const placesMax = 500;
const aheadMax = 500_000;
const partsMax = 10_000;
const nextsMax = 256;

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
export function textsOfPattern(pattern: string, min: number, max: number): Texts {
  const places = placesOf(parsePattern(pattern));
  const lengths = Number.isFinite(max) ? max : min;
  const pairs = places.follow.reduce((sum, { size }) => sum + size, places.follow.length);
  if (pairs * (lengths + 1) > aheadMax)
    throw refused(`is too long for ${lengths} characters; shorten it, or lower minLength and maxLength`);
  const ahead = Number.isFinite(max) ? exactly(places, max) : atLeast(places, min);
  return new PatternTexts(places, { min, max, ahead });
}

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
    if (places.points.length >= placesMax) throw refused(`has more than ${placesMax} places with its repetitions; make it shorter`);
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

function repeated({ of, min, max }: Extract<Expression, { kind: "repeat" }>, places: Places): Part {
  const once = (): Part => partOf(of, places);
  let whole = nothing;
  const times = Number.isFinite(max) ? max : Math.max(1, min);
  for (let i = 0; i < times; i++) {
    const part = once();
    if (!Number.isFinite(max) && i === times - 1)
      for (const place of part.last) for (const next of part.first) places.follow[place]?.add(next);
    whole = joined(whole, i < min ? part : { ...part, empty: true }, places);
  }
  return whole;
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

interface Lengths {
  readonly min: number;
  readonly max: number;
  readonly ahead: readonly Uint8Array[];
}

interface Nexts {
  readonly places: readonly number[];
  readonly count: number;
}

/** A state is the set of possible places, and the length where it matters. */
class PatternTexts implements Texts {
  readonly start: string;
  readonly #places: Places;
  readonly #lengths: Lengths;
  readonly #nexts = new Map<string, Nexts>();

  constructor(places: Places, lengths: Lengths) {
    this.#places = places;
    this.#lengths = lengths;
    if (!this.#lives(0, 0)) throw refused("no text has it and the lengths that are asked for");
    this.start = "0/0";
  }

  step(state: string, point: number): string | undefined {
    const { places, count } = this.#nextsOf(state);
    const next = places.filter((place) => takes(this.#places.points[place], point, point));
    return next.length === 0 ? undefined : `${next.join(",")}/${count}`;
  }

  reaches(state: string, low: number, high: number): boolean {
    return this.#nextsOf(state).places.some((place) => takes(this.#places.points[place], low, high));
  }

  #nextsOf(state: string): Nexts {
    const known = this.#nexts.get(state);
    if (known) return known;
    const { min, max } = this.#lengths;
    const { places, count } = read(state);
    const after = Number.isFinite(max) ? count + 1 : Math.min(min, count + 1);
    const reached = new Set<number>();
    for (const place of places) for (const to of this.#places.follow[place] ?? []) reached.add(to);
    const nexts = { places: [...reached].filter((to) => this.#lives(to, after)).sort((a, b) => a - b), count: after };
    if (this.#nexts.size >= nextsMax) this.#nexts.delete(this.#nexts.keys().next().value as string);
    this.#nexts.set(state, nexts);
    return nexts;
  }

  /** The shortest path to an end has fewer steps than there are places; longer ones may have any length. */
  alike(state: string, points: number): string {
    const { min, max } = this.#lengths;
    const [places, written] = state.split("/");
    const count = Number(written);
    if (Number.isFinite(max) && count < min) return state; // a distant end may admit some lengths only
    return `${places}/${countAlike(count, { min, max }, points + this.#places.points.length)}`;
  }

  ends(state: string): boolean {
    const { places, count } = read(state);
    return count >= this.#lengths.min && places.some((place) => this.#places.last.has(place));
  }

  #lives(place: number, count: number): boolean {
    const { min, max, ahead } = this.#lengths;
    const lengths = ahead[place] as Uint8Array;
    const least = Math.max(0, min - count);
    if (!Number.isFinite(max)) return lengths[least] === 1;
    const at = lengths.indexOf(1, least);
    return at >= 0 && at <= max - count;
  }
}

function read(state: string): { readonly places: readonly number[]; readonly count: number } {
  const [places = "", count = "0"] = state.split("/");
  return { places: places.split(",").map(Number), count: Number(count) };
}

function takes(points: Points | undefined, low: number, high: number): boolean {
  return points?.some(([from, to]) => from <= high && to >= low) === true;
}
