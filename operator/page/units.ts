// Numbers, times and links as the page shows them: "-" is what is not known, which is never shown as zero. Pure.
import { type Html, html } from "./html.ts";

const binaryUnits = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

export function bytes(count: number | undefined): string {
  if (count === undefined) return "-";
  const unit = Math.min(binaryUnits.length - 1, count < 1 ? 0 : Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** unit;
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${binaryUnits[unit]}`;
}

export const percent = (value: number | undefined): string => (value === undefined ? "-" : `${value}%`);

/** At most three digits that count; whole numbers as they are. */
export function figure(value: number | undefined): string {
  if (value === undefined) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  return String(Number(value.toPrecision(3)));
}

/** A time, which the script of the page turns into the reader's own clock. */
export const timeOf = (iso: string): Html => html`<time datetime="${iso}">${iso.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")}</time>`;

/** Relative, so that it holds behind any proxy: all pages are in one folder. */
export const linkTo = (page: string, query: Readonly<Record<string, string | undefined>>): string => {
  const given = Object.entries(query).flatMap(([name, value]): [string, string][] => (value === undefined ? [] : [[name, value]]));
  return `./${page}${given.length === 0 ? "" : `?${new URLSearchParams(given)}`}`;
};
