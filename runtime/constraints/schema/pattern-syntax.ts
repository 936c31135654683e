// Parses a regular expression: characters, classes, groups, repetitions, and ^ and $ at the ends.
import { AppError } from "../../../crds/common.ts";

/** Ranges of code points, ascending and inclusive. */
export type Points = readonly (readonly [number, number])[];

export type Expression =
  | { readonly kind: "points"; readonly points: Points }
  | { readonly kind: "sequence" | "either"; readonly of: readonly Expression[] }
  | { readonly kind: "repeat"; readonly of: Expression; readonly min: number; readonly max: number };

const groupDepthMax = 32;
const repeatMax = 1_000;
const pointMax = 0x10ffff;

const one = (point: number): Points => [[point, point]];
const codeOf = (character: string): number => character.codePointAt(0) as number;
const ranges = (text: string): Points =>
  [...text.matchAll(/(.)-(.)/gsu)].map(([, from, to]) => [codeOf(from as string), codeOf(to as string)] as const);

const classes: Readonly<Record<string, Points>> = {
  d: ranges("0-9"),
  w: ranges("0-9A-Z_-_a-z"),
  s: ranges("\t-\r - \u00a0-\u00a0\u1680-\u1680\u2000-\u200a\u2028-\u2029\u202f-\u202f\u205f-\u205f\u3000-\u3000\ufeff-\ufeff"),
};
const controls: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, "0": 0 };
const anyPoint: Points = [[0, pointMax]];
const notLineEnd = without(ranges("\n-\n\r-\r\u2028-\u2029"));
const anything: Expression = { kind: "repeat", of: { kind: "points", points: anyPoint }, min: 0, max: Number.POSITIVE_INFINITY };

function without(points: Points): Points {
  const rest: [number, number][] = [];
  let from = 0;
  for (const [low, high] of joined(points)) {
    if (low > from) rest.push([from, low - 1]);
    from = high + 1;
  }
  if (from <= pointMax) rest.push([from, pointMax]);
  return rest;
}

function joined(points: Points): Points {
  const result: [number, number][] = [];
  for (const [low, high] of [...points].sort((a, b) => a[0] - b[0])) {
    const last = result.at(-1);
    if (last && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else result.push([low, high]);
  }
  return result;
}

const refused = (message: string): AppError => new AppError(`pattern: ${message}`, { code: "InvalidRequest" });

/** `whole`: nothing may stand around the match. Throws AppError `InvalidRequest`. */
export function parsePattern(pattern: string, whole = false): Expression {
  try {
    new RegExp(pattern, "u");
  } catch (caught) {
    throw refused(AppError.from(caught).message);
  }
  const reader = new Reader(pattern);
  const found = reader.either(0);
  return {
    kind: "either",
    of: found.map(({ of, begins, ends }) =>
      sequence([...(begins || whole ? [] : [anything]), ...of, ...(ends || whole ? [] : [anything])]),
    ),
  };
}

const sequence = (of: readonly Expression[]): Expression => ({ kind: "sequence", of });

interface Alternative {
  readonly of: readonly Expression[];
  /** The match must start at the beginning of the text, or end at its end. */
  readonly begins: boolean;
  readonly ends: boolean;
}

/** Reads an expression that RegExp has accepted, and checks only what is unsupported here. */
class Reader {
  readonly #characters: readonly string[];
  #at = 0;

  constructor(pattern: string) {
    this.#characters = [...pattern];
  }

  either(depth: number): Alternative[] {
    const alternatives = [this.#alternative(depth)];
    while (this.#taken("|")) alternatives.push(this.#alternative(depth));
    return alternatives;
  }

  #alternative(depth: number): Alternative {
    if (depth > groupDepthMax) throw refused(`has more than ${groupDepthMax} groups inside each other`);
    const begins = depth === 0 && this.#taken("^");
    const of: Expression[] = [];
    while (this.#at < this.#characters.length && !"|)".includes(this.#next)) {
      if (this.#next === "$" && depth === 0 && this.#isLast()) {
        this.#at += 1;
        return { of, begins, ends: true };
      }
      of.push(this.#repeated(this.#atom(depth)));
    }
    return { of, begins, ends: false };
  }

  get #next(): string {
    return this.#characters[this.#at] ?? "";
  }

  #isLast(): boolean {
    return this.#at + 1 === this.#characters.length || this.#characters[this.#at + 1] === "|";
  }

  #taken(text: string): boolean {
    if (this.#characters.slice(this.#at, this.#at + text.length).join("") !== text) return false;
    this.#at += text.length;
    return true;
  }

  #atom(depth: number): Expression {
    if ("^$".includes(this.#next))
      throw refused(`${this.#next} stands within it; it may stand at the ends of the whole or of its alternatives`);
    if (this.#taken("(")) return this.#group(depth);
    if (this.#taken("[")) return { kind: "points", points: this.#set() };
    if (this.#taken(".")) return { kind: "points", points: notLineEnd };
    return { kind: "points", points: this.#character() };
  }

  #group(depth: number): Expression {
    for (const look of ["?=", "?!", "?<=", "?<!"])
      if (this.#taken(look)) throw refused(`(${look} looks around; say what the text has without it`);
    if (!this.#taken("?:") && this.#taken("?<")) while (!this.#taken(">")) this.#at += 1;
    if (this.#next === "?") throw refused("(? with flags is not implemented; write the group without them");
    const of = this.either(depth + 1).map(({ of: parts }) => sequence(parts));
    this.#at += 1;
    return { kind: "either", of };
  }

  #repeated(of: Expression): Expression {
    const [min, max] = this.#times() ?? [1, 1];
    this.#taken("?"); // lazy: the same texts
    if (min > repeatMax || (Number.isFinite(max) && max > repeatMax)) throw refused(`repeats more than ${repeatMax} times`);
    return min === 1 && max === 1 ? of : { kind: "repeat", of, min, max };
  }

  #times(): readonly [number, number] | undefined {
    if (this.#taken("*")) return [0, Number.POSITIVE_INFINITY];
    if (this.#taken("+")) return [1, Number.POSITIVE_INFINITY];
    if (this.#taken("?")) return [0, 1];
    if (!this.#taken("{")) return undefined;
    const close = this.#characters.indexOf("}", this.#at);
    const [min = "", max] = this.#characters.slice(this.#at, close).join("").split(",");
    this.#at = close + 1;
    return [Number(min), max === undefined ? Number(min) : max === "" ? Number.POSITIVE_INFINITY : Number(max)];
  }

  #set(): Points {
    const negated = this.#taken("^");
    const points: (readonly [number, number])[] = [];
    while (!this.#taken("]")) {
      const low = this.#character();
      const between = this.#next === "-" && this.#characters[this.#at + 1] !== "]";
      if (!between) {
        points.push(...low);
        continue;
      }
      this.#at += 1;
      const high = this.#character();
      points.push([low[0]?.[0] ?? 0, high[0]?.[0] ?? 0]);
    }
    return negated ? without(points) : joined(points);
  }

  #character(): Points {
    const character = this.#next;
    this.#at += 1;
    return character === "\\" ? this.#escape() : one(codeOf(character));
  }

  #escape(): Points {
    const letter = this.#next;
    this.#at += 1;
    const named = classes[letter.toLowerCase()];
    if (named) return letter === letter.toLowerCase() ? named : without(named);
    if (Object.hasOwn(controls, letter)) return one(controls[letter] as number);
    if (letter === "x") return one(this.#hex(2));
    if (letter === "u") return one(this.#unit());
    if (letter === "c") {
      this.#at += 1;
      return one(codeOf(this.#characters[this.#at - 1] as string) % 32);
    }
    if (/[a-zA-Z1-9]/.test(letter)) throw refused(`\\${letter} is not implemented; write out what it stands for`);
    return one(codeOf(letter));
  }

  #unit(): number {
    if (this.#taken("{")) {
      const digits = this.#characters.slice(this.#at, this.#characters.indexOf("}", this.#at)).length;
      const point = this.#hex(digits);
      this.#at += 1;
      return point;
    }
    const high = this.#hex(4);
    if (high < 0xd800 || high > 0xdbff || !this.#taken("\\u")) return high;
    const low = this.#hex(4);
    if (low >= 0xdc00 && low <= 0xdfff) return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    this.#at -= 6;
    return high;
  }

  #hex(digits: number): number {
    this.#at += digits;
    return Number.parseInt(this.#characters.slice(this.#at - digits, this.#at).join(""), 16);
  }
}
