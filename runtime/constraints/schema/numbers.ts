// Automata over the bytes of numbers (any, integer, bounded or listed) and of true, false and null.
import { type Bounds, TextList } from "./texts.ts";

/** Like a language, but other text may follow its end. */
export interface Scalar {
  /** The least and the most of its numbers. */
  readonly bounds: Bounds;
  /** The next state ("" is the start); undefined where no text continues so. */
  step(state: string, byte: number): string | undefined;
  ends(state: string): boolean;
}

const fractionDigitsMax = 24;
export const leastMagnitude = 10 ** -fractionDigitsMax;

/** Texts in ASCII. */
export function scalarTexts(texts: readonly string[]): Scalar {
  const list = new TextList(texts);
  const values = texts.map(Number);
  return {
    step: (state, byte) => list.step(state || list.start, byte),
    ends: (state) => list.ends(state || list.start),
    bounds: { min: Math.min(...values), max: Math.max(...values) },
  };
}

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const is = (byte: number, characters: string): boolean => characters.includes(String.fromCharCode(byte));

type Steps = Readonly<Record<string, (byte: number) => string | undefined>>;

const integerSteps: Steps = {
  "": (byte) => (is(byte, "-") ? "minus" : integerSteps.minus?.(byte)),
  minus: (byte) => (is(byte, "0") ? "zero" : isDigit(byte) ? "digits" : undefined),
  zero: () => undefined,
  digits: (byte) => (isDigit(byte) ? "digits" : undefined),
};

const exponent = (byte: number): string | undefined => (is(byte, "eE") ? "exponent" : undefined);
const numberSteps: Steps = {
  "": (byte) => integerSteps[""]?.(byte),
  minus: (byte) => integerSteps.minus?.(byte),
  zero: (byte) => (is(byte, ".") ? "point" : exponent(byte)),
  digits: (byte) => (isDigit(byte) ? "digits" : numberSteps.zero?.(byte)),
  point: (byte) => (isDigit(byte) ? "fraction" : undefined),
  fraction: (byte) => (isDigit(byte) ? "fraction" : exponent(byte)),
  exponent: (byte) => (is(byte, "+-") ? "sign" : numberSteps.sign?.(byte)),
  sign: (byte) => (isDigit(byte) ? "power" : undefined),
  power: (byte) => (isDigit(byte) ? "power" : undefined),
};

const whole = new Set(["zero", "digits", "fraction", "power"]);
const byTable = (steps: Steps): Scalar => ({
  step: (state, byte) => (Object.hasOwn(steps, state) ? steps[state]?.(byte) : undefined),
  ends: (state) => whole.has(state),
  bounds: { min: Number.NEGATIVE_INFINITY, max: Number.POSITIVE_INFINITY },
});

export const anyNumber = byTable(numberSteps);
export const anyInteger = byTable(integerSteps);

export interface Range {
  /** Inclusive bounds; infinite if absent. */
  readonly least: number;
  readonly most: number;
  readonly integer: boolean;
}

/** Numbers of a range; a state is the text so far, or a state of any number once no digit can leave the range. */
export class RangedNumber implements Scalar {
  readonly bounds: Bounds;
  readonly #range: Range;
  readonly #free: Scalar;

  constructor(range: Range) {
    this.#range = range;
    this.bounds = { min: range.least, max: range.most };
    this.#free = range.integer ? anyInteger : byTable({ ...numberSteps, digits: plainDigits, fraction: fractionDigits });
  }

  get any(): boolean {
    return this.#lives("-") || "0123456789".split("").some((digit) => this.#lives(digit));
  }

  step(state: string, byte: number): string | undefined {
    if (this.#isFree(state)) return this.#free.step(state, byte);
    const text = state + String.fromCharCode(byte);
    if (!wellBegun.test(text) || (this.#range.integer && text.endsWith("."))) return undefined;
    const fraction = fractionOf(text);
    if (fraction !== undefined && fraction.length > fractionDigitsMax) return undefined;
    if (!this.#lives(text)) return undefined;
    if (text === "-" || text.endsWith(".")) return text;
    if (fraction === undefined) return this.#endless(text) && this.#within(text) ? "digits" : text;
    return this.#within(text) && this.#within(filled(text)) ? "fraction" : text;
  }

  ends(state: string): boolean {
    if (this.#isFree(state)) return this.#free.ends(state);
    return state !== "" && state !== "-" && !state.endsWith(".") && this.#within(state);
  }

  #isFree(state: string): boolean {
    return whole.has(state) || state === "point";
  }

  #within(text: string): boolean {
    const value = Number(text);
    return value >= this.#range.least && value <= this.#range.most;
  }

  /** True where more digits never reach a bound. */
  #endless(text: string): boolean {
    const end = text.startsWith("-") ? -this.#range.least : this.#range.most;
    return end === Number.POSITIVE_INFINITY && Number(text) !== 0;
  }

  #lives(text: string): boolean {
    const { least, most, integer } = this.#range;
    const minus = text.startsWith("-");
    const low = Math.max(0, minus ? -most : least);
    const high = minus ? -least : most;
    if (low > high) return false;
    const digits = minus ? text.slice(1) : text;
    if (digits === "") return true;
    if (fractionOf(digits) !== undefined) return meets(Number(digits), Number(filled(digits)), { low, high });
    for (let more = 0; more <= longest; more++) {
      const [from, to] = [Number(digits + "0".repeat(more)), Number(digits + "9".repeat(more) + (integer ? "" : `.${nines}`))];
      if (meets(from, to, { low, high })) return true;
      if (from > high || digits === "0") return false;
    }
    return high === Number.POSITIVE_INFINITY;
  }
}

/** The maximum of integer digits that can decide about a bound. */
const longest = 20;
const nines = "9".repeat(fractionDigitsMax);
const wellBegun = /^-?(?:$|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?$)/;
const fractionOf = (text: string): string | undefined => text.split(".")[1];
const filled = (text: string): string => text + nines.slice(fractionOf(text)?.length ?? 0);

function meets(from: number, to: number, { low, high }: { readonly low: number; readonly high: number }): boolean {
  return from >= low ? from <= high : to >= low;
}

function plainDigits(byte: number): string | undefined {
  return isDigit(byte) ? "digits" : is(byte, ".") ? "point" : undefined;
}

function fractionDigits(byte: number): string | undefined {
  return isDigit(byte) ? "fraction" : undefined;
}
