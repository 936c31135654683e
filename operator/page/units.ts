// Times and links as the page shows them. Pure.
import { type Html, html } from "./html.ts";

/** A time, which the script of the page turns into the reader's own clock. */
export const timeOf = (iso: string): Html => html`<time datetime="${iso}">${iso.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")}</time>`;

/** Relative, so that it holds behind any proxy: all pages are in one folder. */
export const linkTo = (page: string, query: Readonly<Record<string, string | undefined>>): string => {
  const set = Object.entries(query).flatMap(([name, value]): [string, string][] => (value === undefined ? [] : [[name, value]]));
  return `./${page}${set.length === 0 ? "" : `?${new URLSearchParams(set)}`}`;
};
