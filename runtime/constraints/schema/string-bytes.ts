// Decodes the bytes of a JSON string, or of a text alone, to code points, with escapes and UTF-8, for texts.ts. A byte is accepted only
// if an allowed code point can begin so; lone surrogates are not.
import { type Reach, unhurried } from "../language.ts";
import type { Texts } from "./texts.ts";

/** The pending part of a code point and the state of the texts; `end` after the closing quote. */
export type StringStep = { readonly state: string } | { readonly ended: string } | undefined;

const quote = 0x22;
const backslash = 0x5c;
const pointMax = 0x10ffff;
const highMin = 0xd800;
const lowMin = 0xdc00;
const lowMax = 0xdfff;
const escapes: Readonly<Record<string, number>> = {
  '"': 0x22,
  "\\": 0x5c,
  "/": 0x2f,
  b: 0x08,
  f: 0x0c,
  n: 0x0a,
  r: 0x0d,
  t: 0x09,
};

/**
 * A state is the pending part, ";", and the texts' state. Parts: "" none, "e" a backslash, "u" and digits after \u, "h" and a high
 * surrogate, "g" the same and a backslash, "w" the same, a dot and digits, "b" and the value, missing bytes and least value.
 */
export const stringStart = (texts: Texts): string => `;${texts.start}`;

export function stringStep(texts: Texts, state: string, byte: number): StringStep {
  const cut = state.indexOf(";");
  const walk: Walk = { texts, part: state.slice(0, cut), before: state.slice(cut + 1) };
  const next = parts[walk.part[0] ?? ""]?.(walk, byte);
  return typeof next === "string" ? { state: next } : next;
}

/** The same for text that stands alone, without quotes or escapes. */
export function textStep(texts: Texts, state: string, byte: number): string | undefined {
  const cut = state.indexOf(";");
  const walk: Walk = { texts, part: state.slice(0, cut), before: state.slice(cut + 1) };
  return (walk.part === "" ? begun(walk, byte) : continued(walk, byte)) as string | undefined;
}

export function* stringAlike(texts: Texts, state: string, reach: Reach): Generator<undefined, string> {
  const after = state.indexOf(";") + 1;
  return state.slice(0, after) + (yield* unhurried(texts.alike(state.slice(after), reach)));
}

interface Walk {
  readonly texts: Texts;
  readonly part: string;
  readonly before: string;
}
type Next = string | { readonly ended: string } | undefined;

const parts: Readonly<Record<string, (walk: Walk, byte: number) => Next>> = {
  "": plain,
  e: escaped,
  u: (walk, byte) => digits(walk, byte, "u"),
  h: (walk, byte) => (byte === backslash ? kept(walk, `g${walk.part.slice(1)}`) : undefined),
  g: (walk, byte) => (byte === 0x75 ? kept(walk, `w${walk.part.slice(1)}.`) : undefined),
  w: (walk, byte) => digits(walk, byte, walk.part.slice(0, walk.part.indexOf(".") + 1)),
  b: continued,
};

const kept = ({ before }: Walk, part: string): string => `${part};${before}`;

function said({ texts, before }: Walk, point: number): Next {
  const next = texts.step(before, point);
  return next === undefined ? undefined : `;${next}`;
}

/** A code point in the range, but no surrogate, may come next. */
function reaches({ texts, before }: Walk, low: number, high: number): boolean {
  if (low < highMin && texts.reaches(before, low, Math.min(high, highMin - 1))) return true;
  return high > lowMax && texts.reaches(before, Math.max(low, lowMax + 1), high);
}

/** A code point with a high surrogate in the range may come next. */
function reachesPairs({ texts, before }: Walk, low: number, high: number): boolean {
  const from = Math.max(low, highMin);
  const to = Math.min(high, lowMin - 1);
  return from <= to && texts.reaches(before, pairOf(from, lowMin), pairOf(to, lowMax));
}

const pairOf = (high: number, low: number): number => 0x10000 + ((high - highMin) << 10) + (low - lowMin);

function plain(walk: Walk, byte: number): Next {
  if (byte === quote) return walk.texts.ends(walk.before) ? { ended: walk.before } : undefined;
  if (byte === backslash) return walk.texts.reaches(walk.before, 0, pointMax) ? kept(walk, "e") : undefined;
  return byte < 0x20 ? undefined : begun(walk, byte);
}

function begun(walk: Walk, byte: number): Next {
  if (byte < 0x80) return said(walk, byte);
  if (byte >= 0xc2 && byte <= 0xdf) return began(walk, { value: byte & 0x1f, left: 1, least: 0x80 });
  if (byte >= 0xe0 && byte <= 0xef) return began(walk, { value: byte & 0x0f, left: 2, least: 0x800 });
  return byte >= 0xf0 && byte <= 0xf4 ? began(walk, { value: byte & 0x07, left: 3, least: 0x10000 }) : undefined;
}

/** A UTF-8 prefix. */
interface Begun {
  readonly value: number;
  readonly left: number;
  readonly least: number;
}

function began(walk: Walk, { value, left, least }: Begun): Next {
  const low = Math.max(least, value * 64 ** left);
  const high = Math.min(pointMax, (value + 1) * 64 ** left - 1);
  if (low > high || !reaches(walk, low, high)) return undefined;
  return left === 0 ? said(walk, value) : kept(walk, `b${value}.${left}.${least}`);
}

function continued(walk: Walk, byte: number): Next {
  if (byte < 0x80 || byte > 0xbf) return undefined;
  const [value = 0, left = 0, least = 0] = walk.part.slice(1).split(".").map(Number);
  return began(walk, { value: value * 64 + (byte & 0x3f), left: left - 1, least });
}

function escaped(walk: Walk, byte: number): Next {
  if (byte === 0x75) return kept(walk, "u");
  const point = escapes[String.fromCharCode(byte)];
  return point === undefined ? undefined : said(walk, point);
}

function digits(walk: Walk, byte: number, behind: string): Next {
  const digit = Number.parseInt(String.fromCharCode(byte), 16);
  if (Number.isNaN(digit)) return undefined;
  const written = walk.part.slice(behind.length) + digit.toString(16);
  const left = 4 - written.length;
  const low = Number.parseInt(written, 16) * 16 ** left;
  const high = low + 16 ** left - 1;
  if (behind !== "u") return second(walk, { low, high, left, part: `${behind}${written}` });
  if (!reaches(walk, low, high) && !reachesPairs(walk, low, high)) return undefined;
  if (left > 0) return kept(walk, `u${written}`);
  return low >= highMin && low < lowMin ? kept(walk, `h${low}`) : said(walk, low);
}

interface Second {
  readonly low: number;
  readonly high: number;
  readonly left: number;
  readonly part: string;
}

function second(walk: Walk, { low, high, left, part }: Second): Next {
  const first = Number(part.slice(1, part.indexOf(".")));
  const from = Math.max(low, lowMin);
  const to = Math.min(high, lowMax);
  if (from > to || !walk.texts.reaches(walk.before, pairOf(first, from), pairOf(first, to))) return undefined;
  return left > 0 ? kept(walk, part) : said(walk, pairOf(first, low));
}
