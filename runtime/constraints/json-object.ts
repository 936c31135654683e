// The constraint `json_object`: one JSON object (RFC 8259) of bounded depth and white space.
import type { Language } from "./language.ts";

const depthMax = 64;
/** Consecutive bytes of white space: a line break and 31 levels of indent. */
const spacesMax = 64;

const space = new Set([0x20, 0x0a, 0x0d, 0x09]);
const quote = 0x22;
const backslash = 0x5c;

/**
 * A place in the text. Its detail is the rest of a word (true, false, null), a mark per byte of white space, or "key" in a string before a
 * colon. A state is the place, its detail and the open brackets, the innermost first.
 */
interface Place {
  readonly at: string;
  readonly detail: string;
  readonly open: string;
}

const gaps = new Set(["start", "value", "first", "member", "key", "colon", "after"]);

const written = ({ at, detail, open }: Place): string => `${at} ${detail} ${open}`;
const read = (state: string): Place => {
  const [at = "", detail = "", open = ""] = state.split(" ");
  return { at, detail, open };
};
const is = (byte: number, character: string): boolean => byte === character.charCodeAt(0);
const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const isHex = (byte: number): boolean => isDigit(byte) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);

type Next = Place | undefined;
const go = (at: string, open: string, detail = ""): Place => ({ at, detail, open });

function opened(bracket: "{" | "[", open: string): Next {
  if (open.length >= depthMax) return undefined;
  return go(bracket === "{" ? "member" : "first", bracket + open);
}

function closed(byte: number, open: string): Next {
  const fits = open.startsWith("{") ? is(byte, "}") : is(byte, "]");
  if (!fits || open === "") return undefined;
  return open.length === 1 ? go("end", "") : go("after", open.slice(1));
}

function value(byte: number, open: string): Next {
  if (is(byte, "{") || is(byte, "[")) return opened(is(byte, "{") ? "{" : "[", open);
  if (byte === quote) return go("string", open);
  if (is(byte, "-")) return go("minus", open);
  if (is(byte, "0")) return go("zero", open);
  if (isDigit(byte)) return go("digits", open);
  const word = ["true", "false", "null"].find((each) => is(byte, each));
  return word === undefined ? undefined : go("word", open, word.slice(1));
}

function after(byte: number, open: string): Next {
  if (is(byte, ",")) return go(open.startsWith("{") ? "key" : "value", open);
  return closed(byte, open);
}

/** The detail of a string, "key" or nothing, stays until its end. */
function string(byte: number, { detail, open }: Place): Next {
  if (byte === quote) return detail === "key" ? go("colon", open) : go("after", open);
  if (byte === backslash) return go("escape", open, detail);
  return byte < 0x20 ? undefined : go("string", open, detail);
}

function escaped(byte: number, { detail, open }: Place): Next {
  if (is(byte, "u")) return go("hex4", open, detail);
  return `"\\/bfnrt`.includes(String.fromCharCode(byte)) ? go("string", open, detail) : undefined;
}

const hex =
  (next: string) =>
  (byte: number, { detail, open }: Place): Next =>
    isHex(byte) ? go(next, open, detail) : undefined;

/** A number that may end here: other bytes are handled as after a value. */
const number =
  (part: (byte: number) => string | undefined) =>
  (byte: number, { open }: Place): Next => {
    const at = part(byte);
    if (at !== undefined) return go(at, open);
    return space.has(byte) ? go("after", open, "s") : after(byte, open);
  };
const needed =
  (part: (byte: number) => string | undefined) =>
  (byte: number, { open }: Place): Next => {
    const at = part(byte);
    return at === undefined ? undefined : go(at, open);
  };
const exponent = (byte: number): string | undefined => (is(byte, "e") || is(byte, "E") ? "exponent" : undefined);
const point = (byte: number): string | undefined => (is(byte, ".") ? "point" : exponent(byte));

const places: Readonly<Record<string, (byte: number, place: Place) => Next>> = {
  start: (byte) => (is(byte, "{") ? opened("{", "") : undefined),
  value: (byte, { open }) => value(byte, open),
  first: (byte, { open }) => closed(byte, open) ?? value(byte, open),
  member: (byte, { open }) => (byte === quote ? go("string", open, "key") : closed(byte, open)),
  key: (byte, { open }) => (byte === quote ? go("string", open, "key") : undefined),
  colon: (byte, { open }) => (is(byte, ":") ? go("value", open) : undefined),
  after: (byte, { open }) => after(byte, open),
  string,
  escape: escaped,
  hex4: hex("hex3"),
  hex3: hex("hex2"),
  hex2: hex("hex1"),
  hex1: hex("string"),
  word: (byte, { detail, open }) => {
    if (!is(byte, detail)) return undefined;
    return detail.length === 1 ? go("after", open) : go("word", open, detail.slice(1));
  },
  minus: needed((byte) => (is(byte, "0") ? "zero" : isDigit(byte) ? "digits" : undefined)),
  zero: number(point),
  digits: number((byte) => (isDigit(byte) ? "digits" : point(byte))),
  point: needed((byte) => (isDigit(byte) ? "fraction" : undefined)),
  fraction: number((byte) => (isDigit(byte) ? "fraction" : exponent(byte))),
  exponent: needed((byte) => (is(byte, "+") || is(byte, "-") ? "sign" : isDigit(byte) ? "power" : undefined)),
  sign: needed((byte) => (isDigit(byte) ? "power" : undefined)),
  power: number((byte) => (isDigit(byte) ? "power" : undefined)),
  end: () => undefined,
};

export const jsonObject: Language = {
  start: written(go("start", "")),
  step(state, byte) {
    const place = read(state);
    if (gaps.has(place.at) && space.has(byte)) {
      return place.detail.length < spacesMax ? written({ at: place.at, detail: `${place.detail}s`, open: place.open }) : undefined;
    }
    const next = places[place.at]?.(byte, place);
    return next && written(next);
  },
  alike: (state) => state,
  ends: (state) => read(state).at === "end",
};
