// What a view says: facts, tables, lists and messages. operator/cli prints them as text, operator/page as HTML. Pure.
import type { Health } from "./health.ts";

/** A text with a meaning that HTML shows; `cut` to two lines. A bar is no text. */
export type Inline =
  | { readonly as: "note" | "strong" | "time" | "state" | "cut"; readonly text: string }
  | { readonly as: "mark"; readonly text: string; readonly mark: Health["mark"] }
  | { readonly as: "link"; readonly text: string; readonly page: "deployment" | "job"; readonly namespace: string; readonly name: string }
  | Bar;
interface Bar {
  readonly as: "bar";
  readonly text: "";
  readonly part: number | undefined;
  readonly scale: number;
  readonly bound: number | undefined;
}
export type Value = string | number | undefined | Inline | readonly Value[];

export const note = (text: string): Inline => ({ as: "note", text });
export const strong = (text: string): Inline => ({ as: "strong", text });
export const time = (iso: string): Inline => ({ as: "time", text: iso });
export const bar = (part: number | undefined, scale: number, bound?: number): Inline => ({ as: "bar", text: "", part, scale, bound });

/** A value without a name goes on with the fact before; an unknown one is left out. */
export type Fact = readonly [name: string, value: Value];
export type Column<R> = readonly [head: string, of: (row: R) => Value];

export interface Table {
  readonly kind: "table";
  readonly caption: string;
  readonly heads: readonly string[];
  readonly rows: readonly (readonly Value[])[];
  /** Stands in place of no rows. */
  readonly none: string;
  /** About rows that are left out. */
  readonly more: string | undefined;
}
export type Section =
  | { readonly kind: "facts"; readonly facts: readonly Fact[] }
  | { readonly kind: "list"; readonly items: readonly Value[]; readonly none: string }
  | { readonly kind: "message"; readonly value: Value }
  | Table;

export const facts = (...all: readonly Fact[]): Section => ({ kind: "facts", facts: all.filter(([, value]) => value !== undefined) });
export const list = (items: readonly Value[], none: string): Section => ({ kind: "list", items, none });
export const message = (...value: readonly Value[]): Section => ({ kind: "message", value });

interface Around {
  readonly caption: string;
  readonly none?: string;
  readonly max?: number | undefined;
  /** After the number of rows beyond `max`. */
  readonly more?: string;
}

export function table<R>(
  columns: readonly Column<R>[],
  rows: readonly R[],
  { caption, none = "none yet", max, more = "more" }: Around,
): Table {
  const shown = rows.slice(0, max);
  return {
    kind: "table",
    caption,
    heads: columns.map(([head]) => head),
    rows: shown.map((row) => columns.map(([, of]) => of(row))),
    none,
    more: rows.length > shown.length ? `${rows.length - shown.length} ${more}` : undefined,
  };
}

export const picked = <R, K extends string>(columns: Readonly<Record<K, Column<R>>>, names: readonly K[]): readonly Column<R>[] =>
  names.map((name) => columns[name]);

const isPart = (value: Value): value is string | number | Inline => value !== undefined && value !== "";

/** In order, without what is unknown. */
export function partsOf(value: Value): readonly (string | Inline)[] {
  const all = Array.isArray(value) ? value.flatMap(partsOf) : [value as Exclude<Value, readonly Value[]>];
  return all.filter(isPart).map((part) => (typeof part === "number" ? String(part) : part));
}

/** Between two parts; punctuation stands close. */
export const gapBefore = (text: string): string => (/^[,;:]/.test(text) ? "" : " ");

export function textOf(value: Value): string {
  const texts = partsOf(value).map((part) => (typeof part === "string" ? part : part.as === "note" ? `(${part.text})` : part.text));
  return texts.reduce((all, text) => (text === "" ? all : all + gapBefore(text) + text), "").trimStart();
}

/** Figures, also with a unit, but no dates; they are aligned on the right. */
export const areFigures = (cells: readonly string[]): boolean =>
  cells.length > 0 && cells.every((cell) => /^(?!\d{4}-)[-\d.,x%]\S*( \S{1,3})?$/.test(cell));
